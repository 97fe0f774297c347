"""How to reach a device over SSH, as the user wrote it, checked before anything connects.

User and host appear in commands that messages tell the user to type, so they must be plain names.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError

__all__ = ["Address"]

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@\\-]{0,63}\$?")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
IPV6 = re.compile(r"(\[)?(?P<host>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9._-]+)?)(?(1)\])")
EXAMPLE = "for example --host ubuntu@192.168.55.1"


@dataclass(frozen=True)
class Address:
    """How to reach a device over SSH.

    Attributes:
        user: the user name there.
        host: host name or IP address.
        port: port of the SSH server.
        identity: the private key file; None for the SSH defaults.
        known_hosts: the file with the known host keys.
        accept_new: whether to add the key of an unknown host to that file.
    """

    user: str
    host: str
    port: int = 22
    identity: Path | None = None
    known_hosts: Path = Path("~/.ssh/known_hosts")
    accept_new: bool = False

    @classmethod
    def parse(cls, text: str, **rest: Any) -> Address:
        """Read `USER@HOST`.

        Raises:
            UsageError: the text does not have this form, or has a character that no user or host
                name has. The message leaves out a password.
        """
        user, _, host = text.rpartition("@")
        if ":" in user:
            raise UsageError(
                "--host: a password or a URL before the @, and no password is ever used",
                f"log in with a key; {EXAMPLE}, and --port for another port",
            )
        address = IPV6.fullmatch(host)
        if not USER.fullmatch(user) or not (address or HOST.fullmatch(host)):
            raise UsageError(f"--host {text!r}: not USER@HOST", EXAMPLE)
        return cls(user, address["host"] if address else host, **rest)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")

    @property
    def copy_id_command(self) -> str:
        """The command that stores the user's public key on the device."""
        port = ["-p", str(self.port)] if self.port != 22 else []
        return shlex.join(["ssh-copy-id", *port, f"{self.user}@{self.host}"])
