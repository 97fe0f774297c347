"""The bundle's own program as a session: `run.sh answer` answers by the line protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, cast

from ...errors import EdgewrightError
from ..line_program import LineProgram, line_program
from ..remote import Device
from .interface import Ask, Reply, Scored, Stop

__all__ = ["LineSession", "line_session"]

START_SECONDS = 900.0
TOKEN_SECONDS = 600.0
"""The longest silence before a token. The first one takes the whole prompt."""


class LineSession:
    """See `Session`.

    Args:
        program: the running program.
        ready: its first message.
    """

    def __init__(self, program: LineProgram, ready: Mapping[str, Any]) -> None:
        self._program = program
        self.provider = str(ready["provider"])
        self.load_s = float(ready["load_s"])
        self.details: dict[str, Any] = {**ready["details"]}

    async def answer(self, ask: Ask, complete: Stop | None = None) -> Reply:
        """See `Session.answer`."""
        self._program.send(asdict(ask))
        tokens: list[int] = []
        stopped = False
        while "token" in (message := await self._program.receive(TOKEN_SECONDS)):
            if stopped:  # it was on its way when the program was told to stop
                continue
            tokens.append(int(message["token"]))
            if complete is not None and complete(tokens):
                self._program.send({"stop": True})
                stopped = True
        done = _part(message, "done")
        return Reply(
            tuple(tokens),
            float(done["first_s"]),
            tuple(map(float, done["token_s"][: len(tokens) - 1])),
            done["joules"],
            done["peak_rss_bytes"],
        )

    async def score(
        self, ids: Sequence[int], continuation: Sequence[int], top: int
    ) -> Scored | None:
        """See `Session.score`."""
        self._program.send({"ids": [*ids], "continuation": [*continuation], "top": top})
        message = await self._program.receive(TOKEN_SECONDS * len(continuation))
        return Scored(**_part(message, "scored"))


def _part(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    found: Any = message.get(key)
    if type(found) is not dict:
        raise EdgewrightError(
            f"run.sh answer sent {str(message)[:200]!r} where `{key}` belongs",
            "deploy again: the copy on the device may be of another version",
        )
    return cast(dict[str, Any], found)


@asynccontextmanager
async def line_session(device: Device, words: tuple[str, ...]) -> AsyncGenerator[LineSession]:
    """Start `run.sh answer`; it is stopped when the block ends.

    Args:
        device: where.
        words: the command.
    """
    async with line_program(device, words, "run.sh answer") as program:
        yield LineSession(program, (await program.receive(START_SECONDS))["ready"])
