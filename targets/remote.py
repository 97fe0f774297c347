"""A device over SSH: commands, and files that arrive whole, checked, and are continued where a connection broke.

asyncssh does the protocol. Only keys and agents are used, never a password; a host whose key is not in known_hosts is refused unless its
key is to be accepted for the first time; a key that changed is refused in any case.
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

__all__ = ["Address", "Device", "Done", "Dropped", "connected"]

BLOCK = 1 << 18
CONNECT_SECONDS = 20.0
KEEPALIVE_SECONDS = 15.0


class Dropped(EdgewrightError):
    """The connection broke; the same command goes on from what has been copied."""


@dataclass(frozen=True)
class Address:
    """Where a device is and how its user is known: `user@host`, port, private key, and the file of known host keys."""

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
            UsageError: it is neither.
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
class Done:
    """How a remote command ended."""

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


@contextlib.asynccontextmanager
async def connected(address: Address) -> AsyncGenerator[Device]:
    """A connection to a device.

    Raises:
        UsageError: the host cannot be reached, or takes no key of the user's.
        Refused: its host key is unknown, or is not the known one.
        Dropped: the connection broke while it was used.
    """
    ssh = _asyncssh()
    known = address.known_hosts.expanduser()
    if address.accept_new:
        await _learn(ssh, address, known)
    options: dict[str, Any] = {"client_keys": [str(address.identity)]} if address.identity else {}
    try:
        async with ssh.connect(
            address.host,
            address.port,
            username=address.user,
            known_hosts=str(known) if known.is_file() else b"",
            preferred_auth="publickey",
            connect_timeout=CONNECT_SECONDS,
            keepalive_interval=KEEPALIVE_SECONDS,
            **options,
        ) as connection:
            yield Device(connection, address)
    except ssh.HostKeyNotVerifiable as error:
        raise await _stranger(ssh, address, known) from error
    except ssh.PermissionDenied as error:
        raise UsageError(
            f"{address}: no key of yours is accepted there",
            f"ssh-copy-id {address}, or give --identity FILE",
        ) from error
    except (
        ssh.ConnectionLost,
        ssh.DisconnectError,
        ssh.ChannelOpenError,
        BrokenPipeError,
        ConnectionResetError,
    ) as error:
        raise Dropped(
            f"{address}: the connection broke: {error}",
            "run the same command again; what was copied is kept",
        ) from error
    except (ssh.KeyImportError, ssh.KeyEncryptionError) as error:
        raise UsageError(
            f"{address.identity}: no usable private key: {error}",
            "use ssh-agent for a key with a passphrase",
        ) from error
    except (OSError, TimeoutError) as error:
        raise UsageError(
            f"{address}: cannot be reached: {error}",
            "check the name, the port and that sshd runs there",
        ) from error


def _known_keys(ssh: Any, address: Address, known: Path) -> list[Any]:
    """The keys that known_hosts has for a host, revoked ones left out."""
    if not known.is_file():
        return []
    name = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    host_keys = ssh.match_known_hosts(str(known), name, address.host, address.port)[0]
    return list(host_keys)


async def _offered(ssh: Any, address: Address) -> asyncssh.SSHKey:
    try:
        key = await asyncio.wait_for(
            ssh.get_server_host_key(address.host, address.port), CONNECT_SECONDS
        )
    except (OSError, TimeoutError, ssh.DisconnectError) as error:
        raise UsageError(
            f"{address}: cannot be reached: {error}",
            "check the name, the port and that sshd runs there",
        ) from error
    if key is None:
        raise UsageError(
            f"{address}: shows no host key", "check that an SSH server answers on that port"
        )
    return key


async def _learn(ssh: Any, address: Address, known: Path) -> None:
    """Add the key of a host that nothing is known about; one that is known is left to be verified."""
    if _known_keys(ssh, address, known):
        return
    key = await _offered(ssh, address)
    name = address.host if address.port == 22 else f"[{address.host}]:{address.port}"
    known.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with known.open("a") as handle:
        handle.write(f"{name} {key.export_public_key().decode().strip()}\n")


async def _stranger(ssh: Any, address: Address, known: Path) -> Refused:
    key = await _offered(ssh, address)
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
    if _known_keys(ssh, address, known):
        return Refused(
            f"{address}: the host key has changed ({shown}); someone may be listening, or the device was set up anew",
            f"if you know why, remove its line from {known} and connect again",
        )
    return Refused(
        f"{address}: unknown host key {shown}",
        "compare it with `ssh-keyscan` on the device, then give --accept-new-host-key once",
    )


class Device:
    """A connected device.

    Args:
        connection: of asyncssh.
        address: whose it is.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection, address: Address) -> None:
        self._connection, self.address = connection, address

    async def run(self, *words: str, stdin: bytes = b"") -> Done:
        """Run a program there with these arguments, whatever characters they have."""
        return await self.shell(shlex.join(words), stdin)

    async def shell(self, command: str, stdin: bytes = b"") -> Done:
        """Run a shell command there."""
        done = await self._connection.run(command, input=stdin, encoding=None, check=False)
        out, err = _text(done.stdout), _text(done.stderr)
        if done.exit_status is None and done.exit_signal is None:
            raise ConnectionResetError("the connection was closed before the command ended")
        return Done(done.exit_status if done.exit_status is not None else 128, out, err)

    async def checked(self, *words: str, stdin: bytes = b"") -> str:
        """Run a program that has to succeed; its output.

        Raises:
            EdgewrightError: it did not, explained where the failure is a known one.
        """
        done = await self.run(*words, stdin=stdin)
        if done.code:
            raise self.failed(words[0], done)
        return done.out

    def failed(self, what: str, done: Done) -> EdgewrightError:
        """A failed command as an error: the known reason, or the last lines it printed."""
        output = f"{done.out}\n{done.err}"
        known = explain(output)
        if known:
            return EdgewrightError(f"{self.address}: {known.message}", known.hint)
        tail = " | ".join((done.err or done.out).strip().splitlines()[-3:])
        return EdgewrightError(
            f"{self.address}: {what} ended with {done.code}: {tail}",
            "run the command there yourself to see more",
        )

    async def listing(self, folder: str) -> dict[str, int]:
        """Bytes of every file below a folder there, by its path from it; empty where there is no such folder."""
        done = await self.run("find", folder, "-type", "f", "-printf", "%s %P\\n")
        entries = [line.partition(" ") for line in done.out.splitlines() if done.code == 0]
        return {name: int(size) for size, _, name in entries}

    async def upload(
        self, content: Path | bytes, to: str, sha256: str, start: int, moved: Callable[[int], None]
    ) -> None:
        """Copy a file to `to`, going on after the bytes that an earlier attempt left in `to.part`, and check it as a whole.

        Args:
            content: a file of this machine, or the bytes themselves.
            to: where it goes; it has that name only once it is right.
            sha256: of the content.
            start: bytes that lie there already.
            moved: called with the number of bytes that went over the wire.

        Raises:
            EdgewrightError: the disk is full, or the copy is wrong twice.
        """
        if await self._append(content, to, sha256, start, moved):
            return
        await self.checked("rm", "-f", "--", f"{to}.part")  # what lay there was from something else
        if await self._append(content, to, sha256, 0, moved):
            return
        raise EdgewrightError(
            f"{self.address}: {to} arrives damaged, twice",
            "check the device's memory and disk, and the cable",
        )

    async def _append(
        self, content: Path | bytes, to: str, sha256: str, start: int, moved: Callable[[int], None]
    ) -> bool:
        """Write the part from `start` on, compare its checksum and give it its name; whether it was right."""
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
        """Write the content from `start` on to the same place in a file there.

        The place is explicit because the program of a broken connection may go on for a while with what had arrived: it then writes
        the bytes that the next connection writes too, where they belong, and not after them.
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
        with contextlib.suppress(
            BrokenPipeError, ConnectionResetError
        ):  # the program there ended, or the connection did: see below
            for block in _blocks(content, start):
                process.stdin.write(block)
                await process.stdin.drain()
                moved(len(block))
            process.stdin.write_eof()
        done = await process.wait()
        if done.exit_status is None:
            raise ConnectionResetError("the connection was closed while a file was copied")
        if done.exit_status:
            raise self.failed("dd", Done(done.exit_status, "", _text(done.stderr)))


def _text(output: Any) -> str:
    return bytes(output or b"").decode(errors="replace")


def _blocks(content: Path | bytes, start: int) -> Any:
    """The content from `start` on, in blocks."""
    if isinstance(content, bytes):
        yield content[start:]
        return
    with content.open("rb") as handle:
        handle.seek(start)
        while block := handle.read(BLOCK):
            yield block
