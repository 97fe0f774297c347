"""What a process may take, and the rights that it gives up."""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import struct

from .landlock import restrict_files
from .namespaces import end_with_parent
from .seccomp import restrict_calls

__all__ = ["confine"]

MEMORY_BYTES = 1 << 30
FILE_BYTES = 16 << 20
OPEN_FILES = 64
THREADS = 64
FIRST_UID, UIDS = 61184, 4336
"""User ids that no account has (systemd's range for such use)."""
COUNTS_IN_USER_NAMESPACE = (5, 14)
"""The kernel that began to count the threads of each user namespace by themselves."""
CAPABILITY_VERSION = 0x20080522
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38


def confine(libc: ctypes.CDLL, folder: str, seconds: int, own_root: bool) -> list[str]:
    """Limit this process and give up its rights, for good.

    Processes cannot be started at all. Threads are counted where the kernel counts them for this
    process alone: for a user id of its own (if it was root's) or in a user namespace.

    Args:
        libc: the C library.
        folder: where it may write.
        seconds: limit of processor time.
        own_root: whether the file system has only what the process may see.

    Returns:
        What is in force, in words: Landlock, seccomp, limits.
    """
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    alone = own_root and (_become_nobody() or _kernel() >= COUNTS_IN_USER_NAMESPACE)
    if alone:
        limits[resource.RLIMIT_NPROC] = THREADS
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    _drop_capabilities(libc)
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    end_with_parent(libc)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = restrict_files(libc, folder)
    found = [f"Landlock (ABI {version})"] if version else []
    if restrict_calls(libc, change_metadata=own_root):
        found.append("seccomp")
    return [*found, "limits"]


def _become_nobody() -> bool:
    """Take a user id of one's own, which only root can; in a user namespace there may be none.

    Root keeps its id where others may not read Python's files, because a program needs them.
    """
    if not _readable_by_others(os.__file__):
        return False
    number = FIRST_UID + int.from_bytes(os.urandom(4), "little") % UIDS
    try:
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    except OSError:
        return False
    return True


def _readable_by_others(file: str) -> bool:
    while os.stat(file).st_mode & (stat.S_IXOTH if os.path.isdir(file) else stat.S_IROTH):
        if file == "/":
            return True
        file = os.path.dirname(file)
    return False


def _kernel() -> tuple[int, ...]:
    numbers = os.uname().release.partition("-")[0].split(".")[:2]
    return tuple(int(number) for number in numbers if number.isdigit())


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    libc.capset(struct.pack("=Ii", CAPABILITY_VERSION, 0), bytes(24))
