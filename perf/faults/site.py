"""One disturbed command: its arena, its reference, and what was found wrong."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from ...checkpoints.locks import SUFFIX
from .arena import Arena
from .commands import Command
from .process import Condition, Ended, start
from .snapshot import Snapshot, differences, snapshot

__all__ = ["CARD", "Reference", "Site"]

UNEXPECTED = "run it again with --debug"
"""The hint of an error that nobody foresaw."""
CARD = "README.md"
TEMPORARY = "tmp"
"""Name of the directory for temporary files."""


@dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        files: what it left.
        seconds: how long it took.
        events: changes to the file system.
        peak: most bytes in use.
    """

    files: Snapshot
    seconds: float
    events: int
    peak: int


@dataclass
class Site:
    """Where a command is disturbed.

    Attributes:
        command: the command.
        arena: its current directory.
        inputs: directory of the inputs.
        logs: directory of its streams.
        reference: what it leaves undisturbed.
        draw: random numbers of this case.
        problems: what was found wrong.
        notes: what was done, for people.
    """

    command: Command
    arena: Arena
    inputs: Path
    logs: Path
    reference: Reference
    draw: random.Random
    problems: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def prepare(self) -> None:
        """Empty the arena, and copy what the command changes."""
        for path in self.arena.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        (self.arena.folder / TEMPORARY).mkdir(mode=0o777)
        for name, source in self.command.copies.items():
            place = self.arena.folder / Path(source).with_stem(name)
            if (self.inputs / source).is_dir():
                shutil.copytree(self.inputs / source, place)
            else:
                shutil.copyfile(self.inputs / source, place)

    def run(self, condition: Condition | None = None, *further: str) -> Ended:
        """Run the command to its end."""
        running = start([*self.command.arguments, *further], self.logs, condition)
        return running.end()

    def look(self) -> Snapshot:
        """What is in the arena, without temporary files and the lock of what is not read again."""
        unread = self.command.unread
        return snapshot(self.arena.folder, (TEMPORARY, f".{unread}{SUFFIX}"))

    def moment(self, signal: int) -> Condition:
        """A random moment: before a change to the file system, or at some time."""
        if self.draw.random() < 0.5:
            event = self.draw.randint(1, max(1, self.reference.events))
            self.notes.append(f"at change {event} of {self.reference.events}")
            return Condition(signal, event=event)
        moment = self.draw.uniform(0.0, 0.95 * self.reference.seconds)
        self.notes.append(f"after {moment:.2f} of {self.reference.seconds:.2f} s")
        return Condition(signal, moment=moment)

    def expect_sentence(self, ended: Ended, codes: tuple[int, ...], *words: str) -> None:
        """Check that a command ended with one clear sentence and a documented exit code.

        Args:
            ended: how it ended.
            codes: the exit codes that are allowed.
            words: each must be in the message.
        """
        self.notes.append(f"exit {ended.code}: {last_line(ended)}")
        if ended.code not in codes:
            self.problems.append(f"exit code {ended.code}, not one of {codes}: {last_line(ended)}")
        if "Traceback (most recent call last)" in ended.err + ended.out:
            self.problems.append(f"a traceback: {last_line(ended)}")
        elif UNEXPECTED in ended.err:
            self.problems.append(f"no clear sentence: {last_line(ended)}")
        for word in words:
            if word not in " ".join(ended.err.split()):
                self.problems.append(f"the message lacks `{word}`: {last_line(ended)}")

    def expect_no_leftovers(self) -> None:
        """Check that no temporary file was left."""
        found = [
            str(path.relative_to(self.arena.folder))
            for path in self.arena.folder.rglob("*")
            if path.name.endswith(".tmp") or path.parent.name == TEMPORARY
        ]
        if found:
            self.problems.append(f"left behind: {', '.join(sorted(found)[:4])}")

    def expect_reference(self, when: str, *, other_command: bool = False) -> None:
        """Check that the arena holds what an undisturbed run leaves.

        Args:
            when: said of what is wrong.
            other_command: model cards, which show the command, are left out.
        """
        found = differences(self.reference.files, self.look())
        if other_command:
            found = [one for one in found if not one.endswith(f"{CARD} differs")]
        if found:
            self.problems.append(f"{when}: {'; '.join(found[:4])}")

    def expect_recovery(self) -> None:
        """Run the command again: its result must be that of an undisturbed run."""
        ended = self.run()
        if ended.code:
            self.problems.append(f"run again: exit {ended.code}: {last_line(ended)}")
        self.expect_reference("run again")


def last_line(ended: Ended) -> str:
    """The error message of a command, or the last line that it printed."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line] or lines[-1:]
    return errors[-1].strip()[:300] if errors else "(no message)"
