"""The directory in which a command works: a small file system of its own where one can be mounted.

It is mounted in a mount namespace, so it ends with the process and nobody else sees it. Without
root, a user namespace gives the right to mount. Where neither is allowed the directory is a plain
one, and the faults that need a file system are left out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

__all__ = ["Arena"]

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
MS_RDONLY = 1
MS_REMOUNT = 32
MS_REC_PRIVATE = 16384 | 1 << 18
LARGE = 256 << 20
"""Bytes of a file system that is large enough for every command."""


class Arena:
    """An empty directory, and the current directory of this process.

    Args:
        folder: the directory to make.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.mounted = self._unshare() and self._mount(LARGE, 0)
        os.chdir(folder)

    def _unshare(self) -> bool:
        user, group = os.geteuid(), os.getegid()
        if user and self._libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
            return False
        if user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        elif self._libc.unshare(CLONE_NEWNS):
            return False
        return not self._libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None)

    def _mount(self, size: int, flags: int) -> bool:
        options = f"size={size},mode=755".encode()
        return not self._libc.mount(b"tmpfs", bytes(self.folder), b"tmpfs", flags, options)

    def resize(self, size: int = LARGE, *, read_only: bool = False) -> None:
        """Change the size of the file system in bytes, and whether it can be written to.

        Raises:
            OSError: it cannot be changed.
        """
        if not self._mount(size, MS_REMOUNT | (MS_RDONLY if read_only else 0)):
            raise OSError(ctypes.get_errno(), "remount", str(self.folder))

    def used(self) -> int:
        """Bytes of the file system that are in use."""
        state = os.statvfs(self.folder)
        return (state.f_blocks - state.f_bfree) * state.f_frsize
