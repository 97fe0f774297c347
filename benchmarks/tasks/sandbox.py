"""Run a program that a model wrote, in a process with limits and without network and other files.

The limits that always hold: processor time, memory, file size, an empty environment, a directory
that is deleted afterwards, and a deadline. Where the Linux kernel allows it, there are also user,
network and process namespaces (no network; child processes end with the program) and Landlock
(it may read only Python's own files, and write only in its directory). This protects against
accidents. It does not protect against an attacker who has a kernel exploit.

This file is also the program that starts in the child (`python -I -S sandbox.py PROGRAM`). So it
imports nothing of edgewright.
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

__all__ = ["ProgramResult", "protections", "run_program"]

MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
OPEN_FILES = 64
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
# Numbers of the Landlock system calls. They are the same on all architectures.
LANDLOCK_CREATE = 444
LANDLOCK_ADD = 445
LANDLOCK_RESTRICT = 446
# Landlock's access rights.
EXECUTE = 1 << 0
READ_FILE = 1 << 2
READ_DIR = 1 << 3
ALL_OF_ABI_1 = (1 << 13) - 1
LIBRARIES = ("/usr/lib", "/lib", "/lib64")
REASON_BYTES = 2000


@dataclass(frozen=True)
class ProgramResult:
    """Whether a program ran to its end, and if not, why: the end of its error output."""

    passed: bool
    reason: str


def run_program(source: str, seconds: float) -> ProgramResult:
    """Run Python source code to its end. A program that exits early fails, also with exit code 0.

    Args:
        source: the program.
        seconds: limit of processor time; the limit of elapsed time is twice that.
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
                with contextlib.suppress(ProcessLookupError):  # it has already ended
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        finished = folder / "finished"
        passed = not late and finished.is_file() and finished.read_text(errors="replace") == token
        errors_text = (folder / "errors").read_bytes()[-REASON_BYTES:].decode(errors="replace")
    if passed:
        return ProgramResult(True, "")
    return ProgramResult(False, late or errors_text.strip() or "ended early")


def protections() -> list[str]:
    """The protections that work on this machine, in words."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", __file__], capture_output=True, text=True, env={}, check=True
    )
    return json.loads(done.stdout)


def _confine(folder: str, seconds: int) -> list[str]:
    """Apply the limits and give up rights; returns the protections that work, in words."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    active = ["limits of time, memory and file size"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWPID) == 0:
        active.append("no network")
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and _landlock(libc, folder):
        active.append("no files but Python's")
    return active


def _landlock(libc: ctypes.CDLL, folder: str) -> bool:
    """Allow everything in the directory, and reading Python's files, but nothing else.

    Returns:
        Whether the kernel supports this.
    """
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
    """Confine this process and run the program in a child.

    The child is the first process of its namespace, so all processes that it starts end with it.
    """
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
