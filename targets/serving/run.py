"""Run the server: listen, keep the limits on connections, and stop without breaking answers."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
import sys
from typing import cast

import uvicorn

from ...console import console
from ...errors import UsageError
from .connections import Connections
from .keys import VARIABLE, Keys
from .options import ServeOptions
from .server import create_app
from .service import Service

__all__ = ["Server", "listening", "reaches_others", "reserve_files", "serve"]

BACKLOG = 256
"""Connections that the kernel holds until they are accepted."""
OTHER_FILES = 64
"""Files that the process has open beside connections."""
SWITCH_SECONDS = 0.0005
"""How long the batch may keep Python's lock while the event loop waits for it. Python's default is
ten times as long, and a loop iteration waits once for each message that it sends or receives."""
FLUSH_SECONDS = 2
"""Time to send the last words of answers that take too long."""


def serve(service: Service, options: ServeOptions, keys: Keys) -> None:
    """Serve until SIGTERM or Ctrl-C; then finish the answers that are running.

    Raises:
        UsageError: the address is in use, or the system allows fewer open files than there may be
            connections.
    """
    reserve_files(service.limits.max_connections + BACKLOG + OTHER_FILES)
    if not keys and reaches_others(options.host):
        console.print(
            f"[bold yellow]warning:[/] everybody who reaches {options.host}:{options.port} can use "
            f"this server: give it a key (--api-key-file or {VARIABLE})",
            highlight=False,
            soft_wrap=True,
        )
    sys.setswitchinterval(SWITCH_SECONDS)
    with listening(options.host, options.port) as listener:
        port = listener.getsockname()[1]
        console.print(f"serving {service.name} on {options.host}:{port}", highlight=False)
        console.print(f"  {_greeting(options.host, port)}", highlight=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):  # the way that it is meant to end
            Server(service, keys).run([listener])


def _greeting(host: str, port: int) -> str:
    """Where a client on this machine finds the server, and how to stop it."""
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104  # nothing is bound
    address = f"[{near}]" if ":" in near else near
    return (
        f"OpenAI's API: http://{address}:{port}/v1 (try: curl http://{address}:{port}/v1/models); "
        "Ctrl-C stops it after the answers that are running"
    )


class Server(uvicorn.Server):
    """Serves with uvicorn: its own limits where it has them, `Connections` for the others."""

    def __init__(self, service: Service, keys: Keys) -> None:
        limits = service.limits
        self._service = service
        self._connections = Connections(limits)
        self._sweeping: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                create_app(service, keys),
                http=cast(type[asyncio.Protocol], self._connections.protocol),
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=limits.keep_alive_seconds,
                timeout_graceful_shutdown=limits.grace_seconds + 2 * FLUSH_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        self._sweeping = asyncio.create_task(self._connections.keep_limits())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop to listen, and finish the answers that are running."""
        ending = asyncio.create_task(self._end_late_answers())
        await super().shutdown(sockets)
        ending.cancel()
        if self._sweeping:
            self._sweeping.cancel()

    async def _end_late_answers(self) -> None:
        """End what is still running when the time is over, with an error that says so.

        Uvicorn itself would break these answers off, with a traceback for each.
        """
        await asyncio.sleep(self._service.limits.grace_seconds)
        await asyncio.to_thread(self._service.batcher.close)
        await asyncio.sleep(FLUSH_SECONDS)
        self._connections.abort()


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: the address is not one of this machine, or somebody else listens there.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            "choose another --port or --host",
        ) from error


def reaches_others(host: str) -> bool:
    """Whether other machines can reach a server that listens on this address."""
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def reserve_files(count: int) -> None:
    """Make sure that this process may open so many files.

    Raises:
        UsageError: the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= count:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise UsageError(
            f"this process may open {hard} files, and its connections need {count}",
            "give a smaller --max-connections, or raise the limit: ulimit -Hn",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
