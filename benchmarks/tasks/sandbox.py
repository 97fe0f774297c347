"""Run a program that a model wrote, with tests that it cannot reach, in a sandbox.

The program runs in one process and its tests in another (`confined.runner`); what goes between them
is data and handles (`confined.peer`). The tests judge the data, and their process has the only pipe
to here. So a program that ends early, writes to what it finds open, replaces built-ins or returns
objects that claim to be equal to everything does not pass.

What confines both processes is, of these, the first that works on this machine:

- bubblewrap (Debian's package `bubblewrap`) makes a root with Python's files, read-only, and an
  empty /tmp of 64 MB; no network; no other processes;
- the same made by Python (`confined.namespaces`), where the kernel lets this user make namespaces;
- Landlock alone: the program's folder and Python's files, nothing else. Names and sizes of other
  files can be seen.

In each, Landlock and seccomp hold too, where the kernel has them: no sockets, no further processes,
no signals to others. Always in force are limits of processor time, memory, file size and what is
written in all; an empty environment; and a deadline that is kept here.

What is not prevented:

- An attacker who has a kernel exploit.
- A program that computes the right answer from the question alone is right, however it does so.
- Names that the tests use and only the program defines are the program's word: `f(x) == f(y)` of
  two objects of a class of the program is what that class says.
- Programs whose results are compared with data must return data (or a subclass of a built-in
  type). An object with an `__eq__` of its own for data is not equal to it here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...errors import EdgewrightError
from .answer_code import asked_names, own_imports, split_tests
from .bubblewrap import bubblewrap_commands
from .confined import runner
from .confined.namespaces import FOLDER_BYTES

__all__ = ["NOT_CONFINED", "Confiner", "ProgramResult", "confiners", "protections", "run_program"]

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from confined.runner import main; main()"
PACKAGE = Path(runner.__file__).parent
SEEN_AT = "/runner"
"""Where bubblewrap shows the package."""
KEEPS_FILES = ("bubblewrap", "namespaces", "Landlock")
"""Beginnings of the protections that keep other files away from a program."""
REASON_LETTERS = 2000
BLOCK = 4096
START_SECONDS = 60.0
"""How long the sandbox may take to start; then the program's own time begins."""
NOT_CONFINED = "none"
PROBE = "import bisect, decimal, socket\nx = int(decimal.Decimal(1))"
"""A program that reads Python's files, and a library that is part of them."""
TICK = 0.1
"""Seconds between looks at what a program has written."""


@dataclass(frozen=True)
class ProgramResult:
    """The verdict on a program.

    Attributes:
        passed: whether it ran to its end, and its tests passed.
        reason: why not.
        protections: what confined it, in words, in the order of `protections`.
    """

    passed: bool
    reason: str
    protections: tuple[str, ...] = ()

    @property
    def confinement(self) -> str:
        """What was in force; begins with `NOT_CONFINED` if other files were not kept from it."""
        if any(one.startswith(KEEPS_FILES) for one in self.protections):
            return ", ".join(self.protections)
        return f"{NOT_CONFINED} ({', '.join(self.protections)})"


@dataclass(frozen=True)
class Confiner:
    """A way to start the sandbox.

    Attributes:
        kind: what the runner is told: `bubblewrap`, `namespaces` or `landlock`.
        command: what stands in front of Python's command.
    """

    kind: str
    command: tuple[str, ...] = ()


@cache
def confiners() -> tuple[Confiner, ...]:
    """The ways that work on this machine, the best first; each has run a program.

    If not one keeps files away from a program, the last is there all the same: with limits only.

    Raises:
        EdgewrightError: not one works.
    """
    commands = bubblewrap_commands(_python(), PACKAGE, SEEN_AT)
    known = [
        *(Confiner("bubblewrap", tuple(command)) for command in commands),
        Confiner("namespaces"),
        Confiner("landlock"),
    ]
    working: dict[str, Confiner] = {}
    failures: list[str] = []
    for one in known:
        try:
            result = run_program(PROBE, 10.0, "assert x == 1", confiner=one)
        except EdgewrightError as error:
            failures.append(str(error))
            continue
        gives = any(word.lower().startswith(one.kind) for word in result.protections)
        if result.passed and (gives or (one == known[-1] and not working)):
            working.setdefault(one.kind, one)
    if not working:
        raise EdgewrightError("; ".join(failures) or "no program runs in the sandbox")
    return tuple(working.values())


def protections() -> list[str]:
    """The protections that work on this machine, in words."""
    return list(run_program("", 10.0).protections)


def run_program(
    source: str,
    seconds: float,
    tests: str = "",
    preamble: str = "",
    confiner: Confiner | None = None,
) -> ProgramResult:
    """Run a program to its end, and then its tests. One that exits early fails.

    Args:
        source: the program. If no tests are given, the assertions at its end are the tests.
        seconds: limit of processor time of program and tests each; the limit of elapsed time is
            twice that.
        tests: code that uses the program's names, and raises if the program is wrong.
        preamble: code that defines what else the tests use.
        confiner: how to confine the program; the best that works if not given.

    Raises:
        EdgewrightError: the sandbox does not start.
    """
    confiner = confiner or confiners()[0]
    if not tests:
        source, tests = split_tests(source)
    imports = "".join(f"import {name}\n" for name in own_imports(tests, preamble))
    preamble = f"{preamble}\n{imports}"
    names = asked_names(tests, preamble)
    job = {"code": source, "tests": tests, "preamble": preamble, "names": names}
    with tempfile.TemporaryDirectory() as folder:
        output, failure = _output(confiner, folder, json.dumps(job), seconds)
    in_force, *verdict = output.splitlines()
    protections = tuple(json.loads(in_force))
    if failure or not verdict:
        return ProgramResult(False, failure or "the tests ended early", protections)
    return ProgramResult(**json.loads(verdict[0]), protections=protections)


def _python() -> str:
    """The interpreter itself, outside of a virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _output(confiner: Confiner, folder: str, job: str, seconds: float) -> tuple[str, str]:
    """What the runner writes, and why it was ended, if it was.

    Raises:
        EdgewrightError: it did not start.
    """
    files = SEEN_AT if confiner.command else str(PACKAGE.parent)
    arguments = [files, confiner.kind, folder, str(max(1, round(seconds)))]
    child = subprocess.Popen(
        [*confiner.command, _python(), "-I", "-S", "-c", START, *arguments],
        cwd=folder,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, errors, failure = _watched(child, folder, job.encode(), seconds)
    finally:
        _kill(child)
    if b"\n" not in output:
        reason = errors.decode(errors="replace").strip()[-REASON_LETTERS:] or failure
        raise EdgewrightError(
            f"the sandbox for programs does not start ({confiner.kind}): {reason}",
            "without it no code task can be measured; try again, with fewer programs at a time",
        )
    return output.decode(), failure


def _watched(
    child: subprocess.Popen[bytes], folder: str, job: bytes, seconds: float
) -> tuple[bytes, bytes, str]:
    """Give the runner its job, and end it when it takes too long or writes too much."""
    rest: bytes | None = job
    deadline = time.monotonic() + START_SECONDS
    started = False
    failure = ""
    while True:
        try:
            return *child.communicate(rest, timeout=TICK), failure
        except subprocess.TimeoutExpired as waiting:
            rest = None
            now = time.monotonic()
            if waiting.output and not started:
                started = True
                deadline = now + 2 * seconds
        if now > deadline:
            failure = f"not finished after {2 * seconds:g} s"
        elif _written(folder) > FOLDER_BYTES:
            failure = f"wrote more than {FOLDER_BYTES >> 20} MB"
        if failure:
            _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the runner; the kernel then ends what it started."""
    with suppress(ProcessLookupError):  # it has already ended
        os.killpg(child.pid, signal.SIGKILL)


def _written(folder: str) -> int:
    """Bytes on the disk below a folder; a file or folder has at least a block.

    What cannot be read may be of any size.
    """
    total = 0
    unreadable: list[OSError] = []
    for place, _, files in os.walk(folder, onerror=unreadable.append):
        total += BLOCK
        for name in files:
            with suppress(OSError):  # it may be gone again
                total += max(BLOCK, os.lstat(os.path.join(place, name)).st_blocks * 512)
    if any(isinstance(error, PermissionError) for error in unreadable):
        return sys.maxsize
    return total
