"""Who holds a lock: what a lock file says."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path

__all__ = ["Owner"]

LONGEST = 200
"""Characters of a command in a message."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock, as the lock file says.

    Attributes:
        host: name of its machine.
        machine: what the kernel calls its present start; containers on one machine share it.
        pid: number of the process.
        command: what was typed.
        since: when the lock was taken, in local time.
    """

    host: str
    machine: str
    pid: int
    command: str
    since: str

    @classmethod
    def me(cls, command: str = "") -> Owner:
        """The owner that a lock file of the present process names."""
        typed = command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(socket.gethostname(), _machine(), os.getpid(), typed, now)

    @classmethod
    def parse(cls, text: bytes) -> Owner | None:
        """The owner that a lock file names; None if the file is none of ours."""
        try:
            kept = json.loads(text)["edgewright lock"]
            found = cls(**{one.name: kept[one.name] for one in fields(cls)})
        except (ValueError, KeyError, TypeError):
            return None
        texts = (found.host, found.machine, found.command, found.since)
        return found if type(found.pid) is int and all(type(t) is str for t in texts) else None

    def text(self) -> bytes:
        """The content of a lock file."""
        return json.dumps({"edgewright lock": asdict(self)}).encode() + b"\n"

    @property
    def elsewhere(self) -> bool:
        """Whether the owner is on another machine, whose locks may be unseen here."""
        return self.host != socket.gethostname() and self.machine != _machine()

    def __str__(self) -> str:
        typed = self.command if len(self.command) <= LONGEST else f"{self.command[:LONGEST]}..."
        return f"`{typed}`, process {self.pid} on {self.host}, since {self.since}"


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
