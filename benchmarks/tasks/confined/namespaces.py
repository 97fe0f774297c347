"""Namespaces of one's own: no network, no other processes, and a root with Python's files only.

This is what bubblewrap does, for machines that do not have it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from contextlib import suppress

from .places import DEVICES, LINKER_CACHE, links_and_folders

__all__ = ["PROGRAM_FOLDER", "become_first", "enter_namespaces", "make_root"]

PROGRAM_FOLDER = "/tmp"  # nosec B108  # in a new root, where it is empty
FOLDER_BYTES = 64 << 20
FOLDER_FILES = 4096
NEW_USER = 0x10000000
ALL_BUT_USER = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000 | 0x02000000
"""Mounts, processes, network, System V IPC, host name, cgroups."""
NO_SUID, NO_DEVICES, BIND, RECURSIVE, PRIVATE = 0x2, 0x4, 0x1000, 0x4000, 0x40000
DETACH = 2
PR_SET_PDEATHSIG = 1
MOUNT_SETATTR = 442
"""Number of the system call. It is the same on all architectures."""
SET_READ_ONLY = 0x1 | 0x2
"""MOUNT_ATTR_RDONLY and MOUNT_ATTR_NOSUID."""
HERE = -100
AND_BELOW = 0x8000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


def enter_namespaces(libc: ctypes.CDLL) -> bool:
    """Get namespaces of one's own; without rights, in a user namespace. Whether it worked."""
    if os.geteuid() == 0 and libc.unshare(ALL_BUT_USER) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(ALL_BUT_USER | NEW_USER) != 0:
        return False
    with suppress(OSError):  # then files are nobody's, and `make_root` says that it failed
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    return True


def _write(file: str, text: str) -> None:
    with open(file, "w") as opened:
        opened.write(text)


def make_root(libc: ctypes.CDLL, folder: str) -> bool:
    """Replace the file system: Python's files, read-only, and an empty, small folder to work in.

    Args:
        libc: the C library.
        folder: any folder; the new root is mounted there.

    Returns:
        Whether it worked. If not, the old file system is still there.
    """
    machine = os.uname().machine
    try:
        _mount(libc, None, "/", None, PRIVATE | RECURSIVE)
        _mount(libc, "tmpfs", folder, "tmpfs", NO_SUID | NO_DEVICES, "size=1m,mode=755")
        _fill(libc, folder)
        _read_only(libc, folder)
        inside = folder + PROGRAM_FOLDER
        limits = f"size={FOLDER_BYTES},nr_inodes={FOLDER_FILES},mode=1777"
        _mount(libc, "tmpfs", inside, "tmpfs", NO_SUID | NO_DEVICES, limits)
        os.chdir(folder)
        if libc.syscall(PIVOT_ROOT[machine], b".", b".") != 0:
            return False
        _check(libc.umount2(b".", DETACH))
        os.chdir(PROGRAM_FOLDER)
    except (OSError, KeyError):
        return False
    return True


def _fill(libc: ctypes.CDLL, root: str) -> None:
    os.mkdir(root + PROGRAM_FOLDER)
    for path, target in links_and_folders():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if target:
            os.symlink(target, root + path)
            continue
        os.makedirs(root + path, exist_ok=True)
        _mount(libc, path, root + path, None, BIND | RECURSIVE)
    for file in (*DEVICES, LINKER_CACHE):
        if os.path.exists(file):
            os.makedirs(os.path.dirname(root + file), exist_ok=True)
            _write(root + file, "")
            _mount(libc, file, root + file, None, BIND)


def _read_only(libc: ctypes.CDLL, root: str) -> None:
    """Make everything at and below a mount read-only."""
    attributes = struct.pack("=4Q", SET_READ_ONLY, 0, 0, 0)
    path = os.fsencode(root)
    _check(libc.syscall(MOUNT_SETATTR, HERE, path, AND_BELOW, attributes, len(attributes)))


def _mount(
    libc: ctypes.CDLL,
    source: str | None,
    target: str,
    kind: str | None,
    flags: int,
    options: str | None = None,
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    _check(libc.mount(*texts, ctypes.c_ulong(flags), data))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "mount")


def become_first(libc: ctypes.CDLL) -> None:
    """Go on as the first process of the namespace: when it ends, so does everything in it.

    The process that called waits for it, and ends as it does. If that one is killed, the first
    process is killed too.
    """
    parent = os.getpid()
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    end_with_parent(libc)
    if os.getppid() not in (0, parent):  # it has already ended; 0: it is outside the namespace
        os._exit(1)


def end_with_parent(libc: ctypes.CDLL) -> None:
    """Have the kernel kill this process when its parent ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
