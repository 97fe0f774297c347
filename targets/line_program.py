"""A program on the device that speaks the line protocol (`device/lines.py`) over SSH."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, cast

from ..errors import EdgewrightError
from .device.lines import MAX_LINE_BYTES, SILENCE_SECONDS
from .remote import CommandResult, Device

if TYPE_CHECKING:
    import asyncssh

__all__ = ["LineProgram", "line_program"]

PING_SECONDS = SILENCE_SECONDS / 30
STOP_SECONDS = 60.0


class LineProgram:
    """A running program: requests go in and answers come out, a JSON object a line.

    Args:
        device: where it runs.
        process: the SSH channel.
        what: its name in messages.
    """

    def __init__(
        self, device: Device, process: asyncssh.SSHClientProcess[bytes], what: str
    ) -> None:
        self._device = device
        self._process = process
        self._what = what

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a request."""
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def receive(self, seconds: float) -> dict[str, Any]:
        """The next line of the program, waiting so long for it.

        Raises:
            EdgewrightError: the program ended, printed something else, or said nothing.
            ConnectionResetError: the connection broke.
        """
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise EdgewrightError(
                f"{self._device.address}: {self._what} said nothing for {seconds:.0f} s",
                "look at the device: it may be out of memory",
            ) from error
        if not line.endswith(b"\n"):
            raise await self._ended()
        try:
            message = json.loads(line[:MAX_LINE_BYTES])
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise EdgewrightError(
                f"{self._device.address}: {self._what} printed {line[:200]!r} where a JSON object "
                "belongs",
                "run the command on the device to see its whole output",
            )
        return cast("dict[str, Any]", message)

    async def failure(self, seconds: float) -> Exception | None:
        """Why the program has ended, if it does so within this time; else None."""
        try:
            async with asyncio.timeout(seconds):
                while await self._process.stdout.readline():
                    pass
                return await self._ended()
        except TimeoutError:
            return None

    async def _ended(self) -> Exception:
        """Why the program ended while more was expected of it."""
        done = await self._process.wait()
        if done.exit_status is None and done.exit_signal is None:
            return ConnectionResetError("the connection was closed before the program ended")
        said = done.stderr or b""
        err = said if isinstance(said, str) else bytes(said).decode(errors="replace")
        code = done.exit_status if done.exit_status is not None else 128
        return self._device.reported(self._what, CommandResult(code, "", err))

    async def ping(self) -> None:
        """Send pings until the connection ends: the program stops if it hears nothing for long."""
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(PING_SECONDS)
                self.send({"ping": True})


@contextlib.asynccontextmanager
async def line_program(
    device: Device, words: tuple[str, ...], what: str
) -> AsyncGenerator[LineProgram]:
    """Start a program on the device. It is told to end, and waited for, when the block ends."""
    process = await device.start(*words)
    program = LineProgram(device, process, what)
    pinging = asyncio.ensure_future(program.ping())
    try:
        yield program
    finally:
        pinging.cancel()
        await _stop(process)


async def _stop(process: asyncssh.SSHClientProcess[bytes]) -> None:
    """Close the program's input and wait until it has ended."""
    with contextlib.suppress(OSError, TimeoutError):
        process.stdin.write_eof()
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait_closed()
    process.close()
