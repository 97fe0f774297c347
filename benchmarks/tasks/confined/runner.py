"""Runs a program in one process and its tests in another, and says whether the tests passed.

Two processes start from this one: the program's is confined and gets the code. This one is
confined too, and then reads the tests, which the program therefore never sees. They run here, with
handles on what the program defined (see `peer`), and the verdict goes out through a pipe that only
this process has.
"""

from __future__ import annotations

import _thread
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from types import ModuleType
from typing import Any

from .limits import confine
from .namespaces import (
    FOLDER_FILES,
    PROGRAM_FOLDER,
    become_first,
    end_with_parent,
    enter_namespaces,
    make_root,
)
from .peer import TESTS, Peer, ProgramEnded

__all__ = ["main"]

REASON_LETTERS = 2000
VERDICT = 3
"""The file descriptor for the verdict."""
TICK = 0.05
"""Seconds between looks at how many files there are."""
HIGHEST = 1 << 16
"""No file descriptor is as high."""


def main() -> None:
    """Read `KIND FOLDER SECONDS` from the command line, and a job from standard input.

    KIND is `bubblewrap` (this process is inside), `namespaces` (make them) or `landlock`. Two lines
    of JSON are written: what is in force, as soon as it is; and whether the tests passed, with the
    reason if not.
    """
    kind, folder, seconds = sys.argv[1:]
    sys.path.pop(0)
    libc = ctypes.CDLL(None, use_errno=True)
    end_with_parent(libc)
    os.dup2(1, VERDICT)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    in_force = ["bubblewrap"] if kind == "bubblewrap" else []
    own_root = kind == "bubblewrap"
    if kind == "namespaces" and enter_namespaces(libc):
        own_root = make_root(libc, folder)
        in_force.append("namespaces" if own_root else "no root of its own, but namespaces")
        become_first(libc)
    folder = PROGRAM_FOLDER if own_root else folder
    os.chdir(folder)
    peer, child, found = _start_program(libc, folder, int(seconds), own_root)
    confine(libc, folder, int(seconds), own_root)
    _tell([*in_force, *found])
    job = json.loads(sys.stdin.buffer.read())
    if own_root:
        _thread.start_new_thread(_watch_files, ())
    verdict = _judged(peer, child, job)
    if own_root:
        _check_files()
    _tell(verdict)
    os._exit(0)


def _watch_files() -> None:
    while True:
        _check_files()
        time.sleep(TICK)


def _check_files() -> None:
    """End with a verdict if there are too many files; bubblewrap limits only their size."""
    found = os.statvfs(PROGRAM_FOLDER)
    if found.f_files - found.f_ffree > FOLDER_FILES:
        _tell({"passed": False, "reason": f"made more than {FOLDER_FILES} files"})
        os._exit(0)


def _tell(message: Any) -> None:
    os.write(VERDICT, json.dumps(message).encode() + b"\n")


def _start_program(
    libc: ctypes.CDLL, folder: str, seconds: int, own_root: bool
) -> tuple[Peer, int, list[str]]:
    """Start the process for the program; returns its peer, its number, and what confines it."""
    to_program, from_tests = os.pipe()[::-1]
    to_tests, from_program = os.pipe()[::-1]
    child = os.fork()
    if child:
        os.close(from_tests)
        os.close(to_tests)
        peer = Peer(from_program, to_program)
        return peer, child, json.loads(os.read(from_program, 1000))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(null, standard)
    before = 2
    for kept in (*sorted((from_tests, to_tests)), HIGHEST):
        os.closerange(before + 1, kept)
        before = kept
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    os.write(to_tests, json.dumps(confine(libc, folder, seconds, own_root)).encode())
    try:
        Peer(from_tests, to_tests, module).serve()
    finally:
        os._exit(1)


def _judged(peer: Peer, child: int, job: dict[str, Any]) -> dict[str, Any]:
    """Run the program and then its tests."""
    try:
        peer.ask("run", job["code"])
        tests = ModuleType(TESTS)
        names = vars(tests)
        exec(compile(job["preamble"], "preamble", "exec"), names)  # nosec B102  # our own text
        for name, value in peer.ask("names", *job["names"]).items():
            names.setdefault(name, value)
        exec(compile(job["tests"], TESTS, "exec"), names)  # nosec B102  # the tests of a task
    except BaseException as error:  # whatever a program or its tests raise is a verdict
        reason = _reason(error, child)
    else:
        reason = _end(child) if peer.ended else ""
    return {"passed": not reason, "reason": reason[-REASON_LETTERS:]}


def _reason(error: BaseException, child: int) -> str:
    if isinstance(error, ProgramEnded):
        return _end(child)
    text = "".join(traceback.format_exception_only(error))
    notes = getattr(error, "__notes__", [])
    if notes:  # it was raised in the program, whose description ends with the same text
        text = "ended early: SystemExit" if "SystemExit" in notes[0] else notes[0]
    places = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == TESTS]
    return f"line {places[-1]} of the tests: {text}" if places else text


def _end(child: int) -> str:
    """How the program's process ended, in words."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return f"ended early: {signal.Signals(-code).name}" if code < 0 else "ended early"
