"""Host keys: a device is trusted by its line in known_hosts, and never without one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import console
from ..errors import EdgewrightError, Refused, UsageError
from .address import Address

if TYPE_CHECKING:
    import asyncssh

__all__ = ["CONNECT_SECONDS", "add_host_key", "host_key_error", "known_hosts_file"]

CONNECT_SECONDS = 20.0
NO_KEYS = b"# no host is known\n"
"""Not empty: asyncssh would then read ~/.ssh/known_hosts, also if the user gave another file."""


def known_hosts_file(ssh: Any, address: Address) -> str | bytes:
    """What asyncssh compares the host key with: the file, or no keys if there is no file.

    Raises:
        UsageError: the file cannot be read as known_hosts.
    """
    known = address.known_hosts.expanduser()
    if not known.exists():
        return NO_KEYS
    _known_keys(ssh, address, known)
    return str(known)


def _known_keys(ssh: Any, address: Address, known: Path) -> tuple[list[Any], list[Any]]:
    """The host's keys in known_hosts, with authorities, and its revoked keys."""
    if not known.exists():
        return [], []
    try:
        found = ssh.match_known_hosts(str(known), _name_of(address), address.host, address.port)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{known}: cannot be read as a file of known host keys: {error}",
            "mend the file, or give another one with --known-hosts",
        ) from error
    hosts, authorities, revoked = found[:3]
    return [*hosts, *authorities], list(revoked)


def _name_of(address: Address) -> str:
    """The name under which known_hosts lists a host."""
    return address.host if address.port == 22 else f"[{address.host}]:{address.port}"


async def _server_key(ssh: Any, address: Address) -> asyncssh.SSHKey:
    try:
        key = await asyncio.wait_for(
            ssh.get_server_host_key(address.host, address.port), CONNECT_SECONDS
        )
    except (OSError, TimeoutError, ssh.DisconnectError) as error:
        raise UsageError(
            f"{address}: cannot be reached: {error}",
            "check the host name, the port, and that sshd is running there",
        ) from error
    if key is None:
        raise UsageError(
            f"{address}: no host key was sent", "check that an SSH server answers on that port"
        )
    return key


async def add_host_key(ssh: Any, address: Address) -> None:
    """Add the key of an unknown host to known_hosts, and say so.

    A host that has a line there is left for the verification, also if the line revokes a key.

    Raises:
        EdgewrightError: the file cannot be written.
    """
    known = address.known_hosts.expanduser()
    if any(_known_keys(ssh, address, known)):
        return
    key = await _server_key(ssh, address)
    line = f"{_name_of(address)} {key.export_public_key().decode().strip()}\n"
    try:
        known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _append_line(known, line)
    except OSError as error:
        raise EdgewrightError(
            f"{known}: the host key cannot be stored: {error.strerror}",
            "give another file with --known-hosts",
        ) from error
    console.print(
        f"  stored the host key {_fingerprint(key)} of {address} in {known}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _append_line(file: Path, line: str) -> None:
    """Add a line to a file that only its owner may write; the last line may be unfinished."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "r+b") as known:
        size = known.seek(0, os.SEEK_END)
        if size:
            known.seek(size - 1)
        unfinished = bool(size) and known.read(1) != b"\n"
        known.write(b"\n" * unfinished + line.encode())


def _fingerprint(key: asyncssh.SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint()}"


async def host_key_error(ssh: Any, address: Address) -> Refused:
    """Why the host key was not accepted: it is unknown, has changed, or is revoked."""
    known = address.known_hosts.expanduser()
    key = await _server_key(ssh, address)
    trusted, revoked = _known_keys(ssh, address, known)
    if key in revoked:
        return Refused(
            f"{address}: the host key {_fingerprint(key)} is marked as revoked in {known}",
            "give the device a new host key",
        )
    if trusted or revoked:
        return Refused(
            f"{address}: the host key has changed ({_fingerprint(key)}); either the device was "
            "installed again, or someone is intercepting the connection",
            f"if you know why it changed, remove its line from {known} and connect again",
        )
    return Refused(
        f"{address}: unknown host key {_fingerprint(key)}",
        "compare it with what `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` (or the file of "
        "that type) prints on the device; if they are equal, give --accept-new-host-key once",
    )
