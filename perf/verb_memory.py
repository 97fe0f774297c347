"""Runs verbs in processes of their own and records the memory that they take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["VerbRun", "anonymous_and_all", "run_verb_once"]

EVERY_SECONDS = 0.1
KILLED = -int(signal.SIGKILL)


@dataclass
class VerbRun:
    """One run of a verb.

    Attributes:
        seconds: until it ended.
        peak_bytes: its largest resident set, with pages of mapped files that the system may take
            back at any time (VmHWM).
        anonymous_bytes: the largest part that no file holds, by looking ten times a second.
        code: its exit code, negative for a signal.
        printed: what it printed as JSON; empty if it was killed or failed.
        error: what it wrote to standard error, if it failed.
    """

    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    code: int
    printed: dict[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""

    @property
    def was_killed(self) -> bool:
        """Whether `kill_after` ended it."""
        return self.code == KILLED

    def record(self) -> dict[str, Any]:
        """Everything but what it printed, for a file."""
        return {name: value for name, value in asdict(self).items() if name != "printed"}


def run_verb_once(arguments: Sequence[str], log: Path, kill_after: float | None = None) -> VerbRun:
    """Run `edgewright ARGUMENTS --json` in a process of its own.

    Args:
        arguments: the verb and its options.
        log: file that its standard error is appended to.
        kill_after: seconds after which it is killed with SIGKILL, if it still runs.
    """
    begin = time.monotonic()
    command = [sys.executable, "-m", "edgewright.cli", *arguments, "--json"]
    with log.open("ab") as errors:
        start = errors.tell()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        highest = anonymous = 0
        # The output is one document at the end, which a pipe may not hold: read it as it comes.
        assert process.stdout
        os.set_blocking(process.stdout.fileno(), False)
        printed = b""
        while process.poll() is None:
            part, whole = anonymous_and_all(process.pid)
            anonymous = max(anonymous, part)
            highest = max(highest, whole)
            printed += process.stdout.read() or b""
            if kill_after is not None and time.monotonic() - begin > kill_after:
                process.kill()
                kill_after = None
            time.sleep(EVERY_SECONDS)
        printed += process.stdout.read() or b""
    failed = process.returncode not in (0, KILLED)
    return VerbRun(
        round(time.monotonic() - begin, 1),
        highest,
        anonymous,
        process.returncode,
        json.loads(printed) if process.returncode == 0 else {},
        log.read_bytes()[start:].decode(errors="replace") if failed else "",
    )


def anonymous_and_all(pid: int) -> tuple[int, int]:
    """Bytes of a process that no file holds now (RssAnon), and its peak of all (VmHWM)."""
    found = {"RssAnon": 0, "VmHWM": 0}
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    for line in lines:
        name, _, value = line.partition(":")
        if name in found:
            found[name] = 1024 * int(value.split()[0])
    return found["RssAnon"], found["VmHWM"]
