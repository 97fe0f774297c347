"""Times a GGUF artifact in llama.cpp's own server, round by round, by the server's own clock."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...checkpoints.config import read_architecture
from ...export.gguf.completion import Completion, completion_body
from ..llama_cpp import LocalLlama, Slots
from ..options import LatencyOptions
from .worker import Round, synthetic_prompt

__all__ = ["LlamaWorker"]


class LlamaWorker:
    """See `latency.Worker`.

    Args:
        path: the artifact.
        options: the shapes of all rounds, for which the server needs room.
        device: `cpu`, or the GPU that computes.
        threads: of the processor.
        program: path of llama-server.

    Raises:
        EdgewrightError: in any method, if the server ended. The message has the end of its log.
    """

    def __init__(
        self, path: Path, options: LatencyOptions, device: str, threads: int, program: str
    ) -> None:
        prompt = max((options.prompt, *options.prompts))
        slots = Slots(max((1, *options.batches)), prompt + options.new_tokens + 1)
        self._vocabulary = read_architecture(path).vocab_size
        self._server = LocalLlama(path, program, slots, device, threads)
        self.loaded: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._server.__enter__()
        affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
        self.loaded = {"load_s": self._server.load_s, "affinity": affinity}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def round(self, shape: dict[str, int]) -> Round:
        """Run and time one round of this shape.

        The server gives the time of all tokens after the first together, so each has the average.
        """
        prompts = synthetic_prompt(shape["batch"], shape["prompt"], self._vocabulary)
        count = shape["new_tokens"]

        async def one(prompt: list[int]) -> Completion:
            return await self._server.ask(completion_body(prompt, count + 1, ends=False))

        found = self._server.run([lambda prompt=prompt: one(prompt) for prompt in prompts])
        each = max(one.token_s for one in found)
        return Round(max(one.first_s for one in found), [each] * count)

    def finish(self) -> dict[str, int]:
        """Phase -> peak resident memory of the server in bytes."""
        peaks = {"load": self._server.loaded_bytes, "decode": self._server.peak_rss()}
        return {phase: peak for phase, peak in peaks.items() if peak is not None}
