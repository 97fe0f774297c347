"""Landlock: the kernel keeps a process away from files, sockets and processes that are not its own.

All rights of the running kernel's version are handled, so what is not allowed here is denied.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping

from .places import DEVICES, LINKER_CACHE, readable_folders

__all__ = ["landlock_abi", "restrict_files"]

# Numbers of the system calls. They are the same on all architectures.
CREATE, ADD, RESTRICT = 444, 445, 446
ASK_VERSION = 1
PATH_BENEATH = 1
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version that began it -> how many rights on files there are (2 renames, 3 truncate, 5 ioctl)."""
WRITE_FILE, READ_FILE, READ_DIR = 1 << 1, 1 << 2, 1 << 3
EXECUTE, MAKE_CHAR, MAKE_SOCKET, MAKE_BLOCK, IOCTL = 1 << 0, 1 << 6, 1 << 9, 1 << 11, 1 << 15
NEVER = EXECUTE | MAKE_CHAR | MAKE_SOCKET | MAKE_BLOCK | IOCTL
"""Rights that a program does not get even in its own folder."""
NETWORK_SINCE, BIND_AND_CONNECT = 4, 0b11
SCOPES_SINCE, SOCKETS_AND_SIGNALS = 6, 0b11
"""Since version 6: abstract UNIX sockets and processes outside are out of reach."""


def landlock_abi(libc: ctypes.CDLL) -> int:
    """The version that the kernel has; 0 or less if none."""
    return libc.syscall(CREATE, None, 0, ASK_VERSION)


def _file_rights(abi: int) -> int:
    return (1 << max(count for since, count in FILE_RIGHTS.items() if since <= abi)) - 1


def restrict_files(libc: ctypes.CDLL, folder: str) -> int:
    """Allow this process its folder, and reading Python's files, but nothing else, for good.

    Returns:
        The version of Landlock in force; 0 if the kernel has none.
    """
    abi = landlock_abi(libc)
    if abi < 1:
        return 0
    rights = _file_rights(abi)
    fields = [
        rights,
        BIND_AND_CONNECT if abi >= NETWORK_SINCE else 0,
        SOCKETS_AND_SIGNALS if abi >= SCOPES_SINCE else 0,
    ]
    known = 3 if abi >= SCOPES_SINCE else 2 if abi >= NETWORK_SINCE else 1
    attributes = struct.pack(f"={known}Q", *fields[:known])
    rules = libc.syscall(CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return 0
    allowed = dict.fromkeys(readable_folders(), READ_FILE | READ_DIR)
    allowed |= dict.fromkeys(DEVICES, READ_FILE | WRITE_FILE)
    allowed |= {LINKER_CACHE: READ_FILE, folder: rights & ~NEVER}
    _add(libc, rules, allowed)
    return abi if libc.syscall(RESTRICT, rules, 0) == 0 else 0


def _add(libc: ctypes.CDLL, rules: int, allowed: Mapping[str, int]) -> None:
    for place, rights in allowed.items():
        if not os.path.exists(place):
            continue
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
        libc.syscall(ADD, rules, PATH_BENEATH, struct.pack("=Qi", rights, handle), 0)
        os.close(handle)
