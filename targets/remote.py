"""An SSH connection to a device: run commands, and copy files so that an interruption can resume.

The package asyncssh implements SSH. Only keys and agents are used for logging in, never a
password. A host whose key is not in known_hosts is refused, unless the user asked to accept new
keys. A host whose key has changed is always refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EdgewrightError, Refused, UsageError
from .failures import explain

if TYPE_CHECKING:
    import asyncssh

__all__ = ["Address", "CommandResult", "ConnectionDropped", "Device", "connected"]

BLOCK = 1 << 18
CONNECT_SECONDS = 20.0
KEEPALIVE_SECONDS = 15.0


class ConnectionDropped(EdgewrightError):
    """The connection broke. Running the same command again resumes."""


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
            UsageError: the text does not have this form.
        """
        user, at, host = text.rpartition("@")
        if not (user and at and host) or host.startswith("-"):
            raise UsageError(
                f"--host {text}: not USER@HOST", "for example --host ubuntu@192.168.55.1"
            )
        return cls(user, host, **rest)

    def __str__(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")


@dataclass(frozen=True)
class CommandResult:
    """The exit code, standard output and standard error of a command on the device."""

    code: int
    out: str
    err: str


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ImportError as error:
        raise UsageError(
            "deploying needs asyncssh, which is not installed", "pip install 'edgewright[device]'"
        ) from error
    return asyncssh


def _connect_options(address: Address, known: Path) -> dict[str, Any]:
    options: dict[str, Any] = {
        "port": address.port,
        "username": address.user,
        "known_hosts": str(known) if known.is_file() else b"",
        "preferred_auth": "publickey",
        "connect_timeout": CONNECT_SECONDS,
        "keepalive_interval": KEEPALIVE_SECONDS,
    }
    if address.identity:
        options["client_keys"] = [str(address.identity)]
    return options


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncGenerator[Device]:
    """Connect to a device; the connection is closed when the block ends.

    Raises:
        UsageError: the host cannot be reached, or accepts none of the user's keys.
        Refused: the host key is unknown, or differs from the known one.
        ConnectionDropped: the connection broke while it was in use.
    """
    ssh = _asyncssh()
    known = address.known_hosts.expanduser()
    if address.accept_new:
        await _add_host_key(ssh, address, known)
    try:
        async with ssh.connect(address.host, **_connect_options(address, known)) as connection:
            yield Device(connection, address)
    except ssh.HostKeyNotVerifiable as error:
        raise await _host_key_error(ssh, address, known) from error
    except ssh.PermissionDenied as error:
        raise UsageError(
            f"{address}: the device accepts none of your SSH keys",
            f"ssh-copy-id {address}, or give --identity FILE",
        ) from error
    except (
        ssh.ConnectionLost,
        ssh.DisconnectError,
        ssh.ChannelOpenError,
        BrokenPipeError,
        ConnectionResetError,
    ) as error:
        raise ConnectionDropped(
            f"{address}: the connection broke: {error}",
            "run the same command again: the copy resumes",
        ) from error
    except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
        raise UsageError(
            f"{address.identity}: not a usable private key: {error}",
            "use ssh-agent for a key with a passphrase",
        ) from error
    except (OSError, TimeoutError) as error:
        raise UsageError(
            f"{address}: cannot be reached: {error}",
            "check the host name, the port, and that sshd is running there",
        ) from error


def _known_keys(ssh: Any, address: Address, known: Path) -> list[Any]:
    """The host's keys in known_hosts, without revoked ones."""
    if not known.is_file():
        return []
    name = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    host_keys = ssh.match_known_hosts(str(known), name, address.host, address.port)[0]
    return list(host_keys)


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


async def _add_host_key(ssh: Any, address: Address, known: Path) -> None:
    """Add the key of an unknown host to known_hosts. A known host is left for verification."""
    if _known_keys(ssh, address, known):
        return
    key = await _server_key(ssh, address)
    name = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with known.open("a") as handle:
        handle.write(f"{name} {key.export_public_key().decode().strip()}\n")


async def _host_key_error(ssh: Any, address: Address, known: Path) -> Refused:
    key = await _server_key(ssh, address)
    fingerprint = f"{key.get_algorithm()} {key.get_fingerprint()}"
    if _known_keys(ssh, address, known):
        return Refused(
            f"{address}: the host key has changed ({fingerprint}); either the device was "
            "installed again, or someone is intercepting the connection",
            f"if you know why it changed, remove its line from {known} and connect again",
        )
    return Refused(
        f"{address}: unknown host key {fingerprint}",
        "compare it with `ssh-keyscan` on the device, then give --accept-new-host-key once",
    )


class Device:
    """A connected device.

    Args:
        connection: the connection of asyncssh.
        address: address of the device, for messages.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, address: Address) -> None:
        self._connection = connection
        self.address = address

    async def run(self, *words: str, stdin: bytes = b"") -> CommandResult:
        """Run a program with these arguments on the device. Arguments need no quoting."""
        return await self.shell(shlex.join(words), stdin)

    async def shell(self, command: str, stdin: bytes = b"") -> CommandResult:
        """Run a shell command on the device."""
        done = await self._connection.run(command, input=stdin, encoding=None, check=False)
        out = _text(done.stdout)
        err = _text(done.stderr)
        if done.exit_status is None and done.exit_signal is None:
            raise ConnectionResetError("the connection was closed before the command ended")
        return CommandResult(done.exit_status if done.exit_status is not None else 128, out, err)

    async def checked(self, *words: str, stdin: bytes = b"") -> str:
        """Run a program on the device and return its output.

        Raises:
            EdgewrightError: the program failed. Known failures are explained.
        """
        done = await self.run(*words, stdin=stdin)
        if done.code:
            raise self.failed(words[0], done)
        return done.out

    def failed(self, what: str, done: CommandResult) -> EdgewrightError:
        """An error for a failed command: a known reason, or the last lines of its output."""
        output = f"{done.out}\n{done.err}"
        known = explain(output)
        if known:
            return EdgewrightError(f"{self.address}: {known.message}", known.hint)
        tail = " | ".join((done.err or done.out).strip().splitlines()[-3:])
        return EdgewrightError(
            f"{self.address}: {what} failed with exit code {done.code}: {tail}",
            "run the command on the device to see its whole output",
        )

    async def listing(self, folder: str) -> dict[str, int]:
        """Path -> size in bytes of all files below a folder on the device.

        Paths are relative to the folder. The result is empty if the folder does not exist.
        """
        done = await self.run("find", folder, "-type", "f", "-printf", "%s %P\\n")
        entries = [line.partition(" ") for line in done.out.splitlines() if done.code == 0]
        return {name: int(size) for size, _, name in entries}

    async def upload(
        self, content: Path | bytes, to: str, sha256: str, start: int, moved: Callable[[int], None]
    ) -> None:
        """Copy a file to the device and verify its checksum.

        The copy is written to `TO.part` and renamed when it is correct. An earlier unfinished
        copy is resumed. If the resumed file is wrong, it is copied again from the beginning.

        Args:
            content: a file on this machine, or the bytes themselves.
            to: path on the device.
            sha256: checksum of the content.
            start: bytes that are already in `TO.part`.
            moved: called with the number of bytes after each block that was sent.

        Raises:
            EdgewrightError: the disk is full, or the checksum was wrong twice.
        """
        if await self._append(content, to, sha256, start, moved):
            return
        # The unfinished file was not the beginning of this content.
        await self.checked("rm", "-f", "--", f"{to}.part")
        if await self._append(content, to, sha256, 0, moved):
            return
        raise EdgewrightError(
            f"{self.address}: {to} was damaged in transit, twice",
            "check the device's memory and disk, and the network cable",
        )

    async def _append(
        self, content: Path | bytes, to: str, sha256: str, start: int, moved: Callable[[int], None]
    ) -> bool:
        """Write the rest of the file, compare the checksum, rename; whether it was correct."""
        part = f"{to}.part"
        await self._write(content, part, start, moved)
        found = await self.checked("sha256sum", "--", part)
        if found.lstrip("\\").partition(" ")[0] != sha256:
            return False
        await self.checked("mv", "-f", "--", part, to)
        return True

    async def _write(
        self, content: Path | bytes, part: str, start: int, moved: Callable[[int], None]
    ) -> None:
        """Write the content, from `start` on, at the same offset of a file on the device.

        The offset is explicit on purpose. After a broken connection, the old `dd` may still be
        writing data that it had received. With explicit offsets both programs write the same
        bytes to the same places; appending would write them twice.
        """
        words = (
            "dd",
            f"of={part}",
            f"bs={BLOCK}",
            f"seek={start}",
            "oflag=seek_bytes",
            "conv=notrunc",
            "status=none",
        )
        process = await self._connection.create_process(shlex.join(words), encoding=None)
        # These errors mean that dd or the connection ended; the exit status below shows which.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for block in _blocks(content, start):
                process.stdin.write(block)
                await process.stdin.drain()
                moved(len(block))
            process.stdin.write_eof()
        done = await process.wait()
        if done.exit_status is None:
            raise ConnectionResetError("the connection was closed while a file was copied")
        if done.exit_status:
            result = CommandResult(done.exit_status, "", _text(done.stderr))
            raise self.failed("dd", result)


def _text(output: Any) -> str:
    return bytes(output or b"").decode(errors="replace")


def _blocks(content: Path | bytes, start: int) -> Any:
    """Yield the content from `start` on, in blocks."""
    if isinstance(content, bytes):
        yield content[start:]
        return
    with content.open("rb") as handle:
        handle.seek(start)
        while block := handle.read(BLOCK):
            yield block
