"""An SSH connection to a device: run commands, and copy files so that an interruption can resume.

The package asyncssh implements SSH. Only keys and agents are used for logging in, never a
password. A host whose key is not in known_hosts is refused, unless the user asked to accept new
keys. A host whose key has changed is always refused.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EdgewrightError, ParityFailed, Refused, UsageError
from .address import Address
from .failures import explain
from .host_keys import CONNECT_SECONDS, add_host_key, host_key_error, known_hosts_file

if TYPE_CHECKING:
    import asyncssh

__all__ = ["CommandResult", "ConnectionDropped", "Device", "connected"]

BLOCK = 1 << 18
KEEPALIVE_SECONDS = 15.0
KINDS = {2: UsageError, 3: Refused, 4: ParityFailed}
"""The error of an exit code of a bundle's program."""


class ConnectionDropped(EdgewrightError):
    """The connection broke. Running the same command again resumes."""


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


def _connect_options(ssh: Any, address: Address) -> dict[str, Any]:
    options: dict[str, Any] = {
        "port": address.port,
        "username": address.user,
        "known_hosts": known_hosts_file(ssh, address),
        "preferred_auth": "publickey",
        "gss_host": None,  # a key exchange by GSSAPI would replace the check of the host key
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
    if address.accept_new:
        await add_host_key(ssh, address)
    try:
        async with ssh.connect(address.host, **_connect_options(ssh, address)) as connection:
            yield Device(connection, address)
    except ssh.HostKeyNotVerifiable as error:
        raise await host_key_error(ssh, address) from error
    except ssh.PermissionDenied as error:
        raise UsageError(
            f"{address}: the device accepts none of your SSH keys",
            f"{address.copy_id_command}, or give --identity FILE",
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

    async def start(self, *words: str) -> asyncssh.SSHClientProcess[bytes]:
        """Start a program, to talk to through its standard input and output."""
        return await self._connection.create_process(shlex.join(words), encoding=None)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is closed."""
        return self._connection.is_closed()

    async def connect(
        self, port: int
    ) -> tuple[asyncssh.SSHReader[bytes], asyncssh.SSHWriter[bytes]]:
        """Connect to a port of the device's loopback, through the SSH connection.

        Raises:
            EdgewrightError: nothing listens there, or sshd forwards nothing.
        """
        ssh = _asyncssh()
        try:
            connection: Any = self._connection
            return await connection.open_connection("127.0.0.1", port, encoding=None)
        except ssh.ChannelOpenError as error:
            if self.is_lost:
                raise
            raise EdgewrightError(
                f"{self.address}: port {port} of its loopback cannot be reached: {error}",
                "the server there has ended, or sshd allows no forwarding (AllowTcpForwarding)",
            ) from error

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

    def reported(self, what: str, done: CommandResult) -> EdgewrightError:
        """The error that a program of the bundle printed, with the same exit code.

        If it printed no error document, that of `failed`. A known failure is explained.
        """
        try:
            report = json.loads(done.err.strip().splitlines()[-1])
            message = str(report["error"])
            hint = str(report["hint"])
        except (IndexError, ValueError, KeyError, TypeError):
            return self.failed(what, done)
        if known := explain(f"{done.out}\n{message}"):
            return EdgewrightError(f"{self.address}: {known.message}", known.hint)
        kind = KINDS.get(done.code, EdgewrightError)
        return kind(f"{self.address}: {what}: {message}", hint)

    async def listing(self, folder: str) -> dict[str, int]:
        """Path -> size in bytes of all files below a folder on the device.

        Paths are relative to the folder. The result is empty if the folder does not exist.
        """
        done = await self.run("find", folder, "-type", "f", "-printf", "%s %P\\0")
        entries = [one.partition(" ") for one in done.out.split("\0") if one and not done.code]
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
        process = await self.start(*words)
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
