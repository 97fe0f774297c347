"""ONNX Runtime on the device: the bundle's own program answers by the line protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any, cast

from ...errors import EdgewrightError
from ...models.export_format import Runtime
from ..line_program import LineProgram, line_program
from ..preflight import Problem
from ..remote import Device
from .interface import Ask, Reply, RunSettings, Scored, Stop

__all__ = ["OnnxRuntime"]

START_SECONDS = 900.0
TOKEN_SECONDS = 600.0
"""The longest silence before a token. The first one takes the whole prompt."""


class OnnxRuntime:
    """ONNX Runtime, of the device's Python.

    Args:
        settings: how it is started.
    """

    name: Runtime = "onnxruntime"

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def problems(self, report: Mapping[str, Any]) -> list[Problem]:
        """See `DeviceRuntime.problems`."""
        packages = report["packages"]
        if packages["numpy"] and (packages["onnxruntime"] or packages["onnxruntime-gpu"]):
            return []
        return [
            Problem(
                f"the device's Python {report['python']} has no numpy or no onnxruntime",
                "python3 -m pip install numpy onnxruntime there, or name another interpreter with "
                "--python",
            )
        ]

    @asynccontextmanager
    async def started(self, device: Device, folder: str) -> AsyncGenerator[OnnxSession]:
        """See `DeviceRuntime.started`."""
        words = self._settings.run_words(folder, "answer", "--provider", self._settings.provider)
        async with line_program(device, words, "run.sh answer") as program:
            ready = (await program.receive(START_SECONDS))["ready"]
            yield OnnxSession(program, ready)


class OnnxSession:
    """See `Session`.

    Args:
        program: the running program.
        ready: its first message.
    """

    def __init__(self, program: LineProgram, ready: Mapping[str, Any]) -> None:
        self._program = program
        self.provider = str(ready["provider"])
        self.load_s = float(ready["load_s"])
        self.details: dict[str, Any] = {"version": ready["version"]}

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
