"""Runs a program that a model wrote: in a process of its own, with limits, and cut off from network and files where Linux lets it.

This file is also the launcher inside the child (``python -I -S sandbox.py PROGRAM``), so that it imports nothing of edgewright.
Always: processor time, memory, file size, an empty environment, a folder that is removed afterwards, and a deadline. Where
the kernel allows: user, network and process namespaces (no network; whatever it started dies with it) and Landlock (files: read
Python's own, write nothing outside the folder). That guards against accidents, not against an attacker with a kernel exploit.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Outcome", "protections", "run_program"]

MEMORY_BYTES, FILE_BYTES, OPEN_FILES = 1 << 30, 16 << 20, 64
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446
"""Numbers of the system calls, the same on every architecture."""
READ_FILE, READ_DIR, EXECUTE, ALL_OF_ABI_1 = 1 << 2, 1 << 3, 1 << 0, (1 << 13) - 1
LIBRARIES = ("/usr/lib", "/lib", "/lib64")
REASON_BYTES = 2000


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end, and the end of what it complained of."""

    passed: bool
    reason: str


def run_program(source: str, seconds: float) -> Outcome:
    """Run Python source to its end; an early exit is a failure, whatever its code.

    Args:
        source: the program.
        seconds: of processor time, and twice that by the clock.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "program.py").write_text(
            f"{source}\nopen('finished', 'w').write('{token}')\n",
            encoding="utf-8",
            errors="replace",
        )
        with (folder / "errors").open("wb") as errors:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "program.py", str(max(1, round(seconds)))],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
            late = ""
            try:
                child.wait(timeout=2 * seconds)
            except subprocess.TimeoutExpired:
                late = f"not finished after {2 * seconds:g} s"
            finally:
                with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        finished = folder / "finished"
        passed = not late and finished.is_file() and finished.read_text(errors="replace") == token
        told = (folder / "errors").read_bytes()[-REASON_BYTES:].decode(errors="replace").strip()
    return Outcome(passed, "" if passed else late or told or "ended early")


def protections() -> list[str]:
    """What a program is kept from on this machine, in words."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__], capture_output=True, text=True, env={}, check=True
    )
    return json.loads(done.stdout)


def _confine(folder: str, seconds: int) -> list[str]:
    """Give up rights, the limits first; what was given up, in words."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    given = ["limits of time, memory and file size"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID) == 0:
        given.append("no network")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and _landlock(libc, folder):
        given.append("no files but Python's")
    return given


def _landlock(libc: ctypes.CDLL, folder: str) -> bool:
    """Allow everything in the folder, reading Python's own files, and nothing else; whether the kernel knows how."""
    rights = ctypes.c_uint64(ALL_OF_ABI_1)
    rules = libc.syscall(LANDLOCK_CREATE, ctypes.byref(rights), ctypes.sizeof(rights), 0)
    if rules < 0:
        return False
    readable = dict.fromkeys(
        map(os.path.realpath, (sys.prefix, sys.base_prefix, *LIBRARIES)),
        READ_FILE | READ_DIR | EXECUTE,
    )
    for place, allowed in {**readable, folder: ALL_OF_ABI_1}.items():
        if not os.path.isdir(place):
            continue
        handle = os.open(place, os.O_PATH)
        rule = (ctypes.c_uint8 * 12).from_buffer_copy(
            allowed.to_bytes(8, "little") + handle.to_bytes(4, "little")
        )
        libc.syscall(LANDLOCK_ADD, rules, 1, ctypes.byref(rule), 0)
        os.close(handle)
    return libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0


def _launch(program: str, seconds: int) -> None:
    """Confine, and run the program as the first process of its namespace: whatever it starts ends with it."""
    text = Path(program).read_text(encoding="utf-8")
    _confine(os.getcwd(), seconds)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(0 if status == 0 else 1)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    exec(compile(text, program, "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(json.dumps(_confine(os.getcwd(), 5)))
    else:
        _launch(sys.argv[1], int(sys.argv[2]))
