"""What is outside the sandbox: files, sockets, a process. Says what changed in it."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import select
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
WORK = "a year of work"


class Outside:
    """A folder, sockets and a process that programs in the sandbox must not touch.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.thesis = folder / "thesis"
        self.thesis.write_text(WORK)
        self.key = random.randrange(1 << 20, 1 << 30)
        self.shared = Path(f"/dev/shm/edgewright-{self.key}")
        self._stack = ExitStack()
        self.sockets = [
            self._bound(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "stream")),
            self._bound(socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram")),
            self._bound(socket.AF_UNIX, socket.SOCK_STREAM, f"\0edgewright-{self.key}"),
            self._bound(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        ]
        self.port = self.sockets[3].getsockname()[1]
        self.sockets.append(
            self._bound(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self.port))
        )
        self.victim = subprocess.Popen(["sleep", "600"])
        self._before = self._state()

    def _bound(self, family: int, kind: int, address: Any) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen()
        return made

    @property
    def host(self) -> dict[str, Any]:
        """What an attempt is told."""
        return {
            "folder": str(self.folder),
            "thesis": str(self.thesis),
            "stream": str(self.folder / "stream"),
            "datagram": str(self.folder / "datagram"),
            "abstract": f"edgewright-{self.key}",
            "port": self.port,
            "key": self.key,
            "shared": str(self.shared),
            "mark": str(self.folder / "mark"),
            "victim": self.victim.pid,
        }

    def _state(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "files": sorted(os.listdir(self.folder)),
            "folder": self.folder.stat().st_mode,
            "shared memory file": self.shared.exists(),
            "shared memory": LIBC.shmget(self.key, 0, 0) >= 0,
            "message queue": LIBC.msgget(self.key, 0) >= 0,
            "semaphore": LIBC.semget(self.key, 0, 0) >= 0,
            "sockets": select.select(self.sockets, [], [], 0)[0],
            "victim": self.victim.poll(),
        }
        if self.thesis.exists():
            status = self.thesis.stat()
            found["thesis"] = self.thesis.read_text(), status.st_mode, status.st_nlink
            found["times and owner"] = status.st_mtime, status.st_ctime, status.st_uid
        if found["victim"] is None:
            pid = self.victim.pid
            found["priority"] = os.getpriority(os.PRIO_PROCESS, pid)
            found["limit"] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        return found

    def changes(self) -> dict[str, Any]:
        """What is not as it was at the beginning."""
        now = self._state()
        return {key: value for key, value in now.items() if value != self._before.get(key)}

    def close(self) -> None:
        """End the process and remove what may have been left."""
        self.victim.kill()
        self.victim.wait()
        self._stack.close()
        self.folder.chmod(0o755)
        self.shared.unlink(missing_ok=True)
        for identity, remove in (
            (LIBC.shmget(self.key, 0, 0), LIBC.shmctl),
            (LIBC.msgget(self.key, 0), LIBC.msgctl),
        ):
            if identity >= 0:
                remove(identity, 0, None)
        if (identity := LIBC.semget(self.key, 0, 0)) >= 0:
            LIBC.semctl(identity, 0, 0)


def processes_with(text: str) -> list[str]:
    """Command lines that hold this text, of processes that are still there after a while."""
    for _ in range(100):
        found = [line for line in map(_command, Path("/proc").glob("[0-9]*")) if text in line]
        if not found:
            return []
        time.sleep(0.1)
    return found


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:  # it has ended
        return ""
