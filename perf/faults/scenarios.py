"""The faults: each disturbs a command once, and then expects the undisturbed result."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .process import Condition, start
from .site import CARD, Site, last_line

__all__ = ["FAULTS", "Fault"]

DECADE = 10 * 365 * 86400.0
FAILED = (1, 2, 3, 4)
"""Exit codes of a refusal with a message."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        strike: disturbs the command of a site.
        seeds: how often, with other random numbers each time.
        needs_mount: whether it needs a file system of its own.
    """

    strike: Callable[[Site], None]
    seeds: int
    needs_mount: bool = False


def _killed(site: Site) -> None:
    """`kill -9` at a random moment."""
    site.run(site.moment(signal.SIGKILL))
    site.expect_recovery()


def _killed_twice(site: Site) -> None:
    """`kill -9` at a random moment, and once more while it recovers."""
    site.run(site.moment(signal.SIGKILL))
    site.run(site.moment(signal.SIGKILL))
    site.expect_recovery()


def _interrupted(site: Site) -> None:
    """Ctrl-C at a random moment."""
    _stopped_by(site, signal.SIGINT, 130)


def _terminated(site: Site) -> None:
    """SIGTERM, as `kill` or a job scheduler sends it."""
    _stopped_by(site, signal.SIGTERM, 143)


def _stopped_by(site: Site, number: int, code: int) -> None:
    # The signal itself ends a command that has not begun its work, or has finished it.
    site.expect_sentence(site.run(site.moment(number)), (0, code, -number))
    site.expect_no_leftovers()
    site.expect_recovery()


def _disk_full(site: Site) -> None:
    """A disk that is too small by a random number of bytes."""
    before = site.arena.used()
    room = site.draw.randint(0, max(0, site.reference.peak - before))
    site.arena.resize(max(4096, before + room))
    site.notes.append(f"{room} bytes of {site.reference.peak - before}")
    ended = site.run()
    if ended.code:
        site.expect_sentence(ended, (3,), "free")
    else:
        site.expect_reference("exit 0 on a small disk")
    site.expect_no_leftovers()
    site.arena.resize()
    site.expect_recovery()


def _file_size(site: Site) -> None:
    """A limit on the size of a file (`ulimit -f`)."""
    largest = max(64, site.reference.peak // 2)
    limit = int(64 * (largest / 64) ** site.draw.random())
    site.notes.append(f"files of at most {limit} bytes")
    ended = site.run(Condition(limits={resource.RLIMIT_FSIZE: limit}))
    if len(ended.err.encode()) >= limit:
        site.notes.append("the message itself did not fit into its file")
    elif ended.code:
        site.expect_sentence(ended, (3,))
    else:
        site.expect_reference("exit 0 with a limit on files")
    site.expect_no_leftovers()
    site.expect_recovery()


def _read_only(site: Site) -> None:
    """A file system that is mounted read-only."""
    before = site.look()
    site.arena.resize(read_only=True)
    site.expect_sentence(site.run(), FAILED)
    site.arena.resize()
    if site.look() != before:
        site.problems.append("a read-only file system was changed")
    site.expect_recovery()


def _not_permitted(site: Site) -> None:
    """A directory that may not be written to."""
    site.arena.folder.chmod(0o555)
    ended = site.run(Condition(powerless=True))
    if ended.code:
        site.expect_sentence(ended, FAILED)
    else:
        site.expect_reference("exit 0, so all files are in directories that may be written to")
    site.arena.folder.chmod(0o755)
    site.expect_no_leftovers()
    site.expect_recovery()


def _little_memory(site: Site) -> None:
    """A limit on the address space (`ulimit -v`)."""
    amount = site.draw.randint(1, 400) << 20
    site.notes.append(f"{amount >> 20} MiB more")
    _limited(site, resource.RLIMIT_AS, amount)


def _few_files(site: Site) -> None:
    """A limit on open files (`ulimit -n`)."""
    amount = site.draw.randint(1, 12)
    site.notes.append(f"{amount} more files")
    _limited(site, resource.RLIMIT_NOFILE, amount)


def _limited(site: Site, kind: int, amount: int) -> None:
    ended = site.run(Condition(limits={kind: amount}))
    if ended.code:
        site.expect_sentence(ended, FAILED)
    else:
        site.expect_reference("exit 0 with a limit")
    site.expect_no_leftovers()
    site.expect_recovery()


def _two_at_once(site: Site) -> None:
    """The same command twice: the first is stopped, the second runs, the first goes on."""
    first = start([*site.command.arguments], site.logs / "first", site.moment(signal.SIGSTOP))
    first.wait_until_struck()
    second = site.run()
    first.resume()
    endings = [first.end(), second]
    for ended in endings:
        if ended.code:
            site.expect_sentence(ended, FAILED)
    if all(ended.code for ended in endings):
        site.problems.append("neither of two commands succeeded")
    site.expect_reference("two at once")
    site.expect_recovery()


def _owner_killed(site: Site) -> None:
    """A second command meets a stopped one, which is then killed: the place must be free."""
    first = start([*site.command.arguments], site.logs / "first", site.moment(signal.SIGSTOP))
    first.wait_until_struck()
    ended = site.run()
    if ended.code:
        site.expect_sentence(ended, FAILED)
    first.kill()
    site.expect_recovery()


def _file_times(site: Site) -> None:
    """Files of a killed command whose times are decades away."""
    site.run(site.moment(signal.SIGKILL))
    sign = site.draw.choice((-1, 1))
    for path in site.arena.folder.rglob("*"):
        moment = path.lstat().st_mtime + sign * 3 * DECADE
        os.utime(path, (moment, moment), follow_symlinks=False)
    site.notes.append(f"times {'later' if sign > 0 else 'earlier'} by 30 years")
    site.expect_recovery()


def _clock_jump(site: Site) -> None:
    """A clock that jumps by ten years while the command runs."""
    event = site.draw.randint(1, max(1, site.reference.events))
    sign = site.draw.choice((-1, 1))
    site.notes.append(f"{'forward' if sign > 0 else 'back'} at change {event}")
    ended = site.run(Condition(event=event, clock=sign * DECADE))
    if ended.code:
        site.problems.append(f"exit {ended.code}: {last_line(ended)}")
    site.expect_reference("with a jumping clock")
    site.expect_recovery()


def _flipped_after_end(site: Site) -> None:
    """A bit of a file that a finished command left."""
    site.run()
    _flip(site)


def _flipped_after_kill(site: Site) -> None:
    """A bit of a file that a killed command left."""
    site.run(site.moment(signal.SIGKILL))
    _flip(site)


def _flip(site: Site) -> None:
    """Flip a bit, run again, and expect the result, or a sentence and the result of `--fresh`."""
    folder = site.arena.folder
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and path.name != CARD  # people edit cards, so they have no checksum
        and path.stat().st_size
        and not _is_input(site, path)
    )
    if not files:
        site.notes.append("no file was left")
        site.expect_recovery()
        return
    path = site.draw.choice(files)
    content = bytearray(path.read_bytes())
    place, bit = site.draw.randrange(len(content)), site.draw.randrange(8)
    content[place] ^= 1 << bit
    path.write_bytes(content)
    site.notes.append(f"bit {bit} of byte {place} of {path.relative_to(folder)}")
    ended = site.run()
    if ended.code:
        site.expect_sentence(ended, FAILED)
    unread = site.command.unread and path.is_relative_to(folder / site.command.unread)
    fresh = site.command.has_fresh and (ended.code or unread)
    if fresh or ended.code:
        if not fresh:
            site.prepare()
        ended = site.run(None, *(("--fresh",) if fresh else ()))
        if ended.code:
            site.problems.append(f"started afresh: exit {ended.code}: {last_line(ended)}")
    site.expect_reference("after a flipped bit", other_command=bool(fresh))


def _is_input(site: Site, path: Path) -> bool:
    """Whether a file is an unchanged copy of an input, which the command only reads."""
    for name, source in site.command.copies.items():
        copy = site.arena.folder / Path(source).with_stem(name)
        original = site.inputs / source
        if path == copy:
            return path.read_bytes() == original.read_bytes()
        if path.is_relative_to(copy):
            other = original / path.relative_to(copy)
            return other.is_file() and path.read_bytes() == other.read_bytes()
    return False


FAULTS: Mapping[str, Fault] = {
    "kill": Fault(_killed, 20),
    "kill-twice": Fault(_killed_twice, 2),
    "interrupt": Fault(_interrupted, 4),
    "terminate": Fault(_terminated, 4),
    "disk-full": Fault(_disk_full, 6, needs_mount=True),
    "file-size": Fault(_file_size, 3),
    "read-only": Fault(_read_only, 1, needs_mount=True),
    "permission": Fault(_not_permitted, 1),
    "memory": Fault(_little_memory, 3),
    "open-files": Fault(_few_files, 3),
    "two-at-once": Fault(_two_at_once, 4),
    "dead-owner": Fault(_owner_killed, 2),
    "file-times": Fault(_file_times, 1),
    "clock": Fault(_clock_jump, 1),
    "flip-result": Fault(_flipped_after_end, 4),
    "flip-progress": Fault(_flipped_after_kill, 4),
}
"""By name."""
