"""SSH servers to deploy to: asyncssh's, the real sshd, and a relay that breaks connections."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh


@dataclass
class Server:
    """Where a server listens, the client's key, and the file with the host keys that it trusts."""

    port: int
    user: str
    identity: Path
    known_hosts: Path
    host_key: str

    @property
    def host(self) -> str:
        return f"{self.user}@127.0.0.1"

    def trust(self, port: int | None = None) -> None:
        """Add the server's key to the known hosts."""
        with self.known_hosts.open("a") as handle:
            handle.write(f"[127.0.0.1]:{port or self.port} {self.host_key}\n")


def keys(folder: Path) -> tuple[Path, Path]:
    """Make a key pair for a user and one for a host."""
    made = []
    for name in ("user", "host"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(folder / name)
        key.write_public_key(folder / f"{name}.pub")
        (folder / name).chmod(0o600)
        made.append(folder / name)
    return made[0], made[1]


def _server(folder: Path, port: int) -> Server:
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    return Server(
        port, pwd.getpwuid(os.getuid()).pw_name, folder / "user", folder / "known_hosts", public
    )


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own; deploying runs another one."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _pass_on(source: Any, sink: Any) -> None:
    while block := await source.read(1 << 16):
        sink.write(block)


async def _feed(source: Any, sink: Any) -> None:
    try:
        # The program or the connection may end before the input does.
        with suppress(BrokenPipeError, ConnectionResetError, asyncssh.Error):
            while block := await source.read(1 << 16):
                sink.write(block)
                await sink.drain()
    finally:
        sink.close()  # as sshd does, so that the program does not wait for input for ever


class _Forwarding(asyncssh.SSHServer):
    """Lets clients connect to ports of this machine, as sshd does by default."""

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> bool:
        return dest_host == "127.0.0.1"


@contextmanager
def asyncssh_server(folder: Path, path: str) -> Iterator[Server]:
    """asyncssh's server. It runs commands in a shell, with `path` as PATH."""
    _, host = keys(folder)

    async def handle(process: Any) -> None:
        child = await asyncio.create_subprocess_shell(
            process.command,
            cwd=folder,
            env={**os.environ, "PATH": path, "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        feeding = asyncio.ensure_future(_feed(process.stdin, child.stdin))
        await asyncio.gather(
            _pass_on(child.stdout, process.stdout), _pass_on(child.stderr, process.stderr)
        )
        code = await child.wait()
        feeding.cancel()
        process.exit(code if code >= 0 else 128 - code)

    async def listening() -> Any:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_factory=_Forwarding,
            server_host_keys=[str(host)],
            authorized_client_keys=str(folder / "user.pub"),
            process_factory=handle,
            encoding=None,
        )

    with loop_in_a_thread() as loop:
        acceptor = asyncio.run_coroutine_threadsafe(listening(), loop).result()
        try:
            yield _server(folder, acceptor.get_port())
        finally:
            loop.call_soon_threadsafe(acceptor.close)
            asyncio.run_coroutine_threadsafe(acceptor.wait_closed(), loop).result(10)


@contextmanager
def real_sshd(folder: Path, path: str) -> Iterator[Server]:
    """OpenSSH's sshd on a free port with its own keys, for the user who runs the tests.

    The home directory in the environment is the folder, so that no shell reads the user's .bashrc.
    """
    keys(folder)
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # systemd makes it otherwise
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/user.pub\nPidFile {folder}/pid\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
        "StrictModes no\nPermitRootLogin prohibit-password\n"
        f'SetEnv PATH="{path}" HOME="{folder}"\n'
    )
    daemon = subprocess.Popen(
        [program, "-D", "-e", "-f", str(config)], stderr=(folder / "log").open("w")
    )
    try:
        _wait(port, daemon, folder / "log")
        yield _server(folder, port)
    finally:
        daemon.terminate()
        daemon.wait()


def _wait(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        assert daemon.poll() is None, log.read_text()
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@contextmanager
def wire(port: int, budgets: list[int], sent: list[int] | None = None) -> Iterator[int]:
    """A TCP relay to `port` that breaks connections.

    Each connection takes the next budget, and breaks after that many bytes towards the server.
    Connections after the last budget stay whole. `sent` gets the number of bytes that have been
    sent to the server after each block.
    """

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = budgets.pop(0) if budgets else None
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)

        async def pump(
            source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int | None
        ) -> None:
            while (block := await source.read(8192)) and not sink.transport.is_closing():
                sink.write(block)
                if sent is not None and sink is there_writer:
                    sent.append(len(block) + (sent[-1] if sent else 0))
                await sink.drain()
                if left is not None:
                    left -= len(block)
                    if left < 0:
                        break
            for side in (writer, there_writer):
                side.transport.abort()

        await asyncio.gather(
            pump(reader, there_writer, budget),
            pump(there_reader, writer, None),
            return_exceptions=True,
        )

    with loop_in_a_thread() as loop:
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(relay, "127.0.0.1", 0), loop
        ).result()
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            loop.call_soon_threadsafe(server.close)
