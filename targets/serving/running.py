"""The sequences that answer one request, from the queue to their last tokens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

from ...export.onnx.sampling import Sampling
from .prompts import Prepared
from .requests import ChatRequest, CompletionRequest
from .sequence import Generation, Token
from .service import Service

__all__ = ["Job", "Running"]


@dataclass(frozen=True)
class Job:
    """A request that was read.

    Attributes:
        service: the loaded artifact.
        request: the request.
        prepared: its prompts.
        owner: whose it is; see `Generation`.
    """

    service: Service
    request: CompletionRequest | ChatRequest
    prepared: Prepared
    owner: int


class Running:
    """The sequences of one request: `n` for each prompt. They are in the queue at once.

    Args:
        job: the request.

    Raises:
        QueueFull: too many requests are waiting.
    """

    def __init__(self, job: Job) -> None:
        self._service = job.service
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Queue[tuple[int, Token | str | BaseException]]()
        self._begin = time.perf_counter()
        self._generations = self._made(job)
        job.service.batcher.submit(*self._generations)

    def _made(self, job: Job) -> list[Generation]:
        service = job.service
        request = job.request
        choices = request.n or 1
        most = request.most_tokens or service.limits.max_new_tokens
        top_p = 1.0 if request.top_p is None else request.top_p
        seed = (request.seed or 0) % 2**64
        return [
            Generation(
                ids,
                min(most, service.context - len(ids)),
                frozenset() if request.ignore_eos else service.eos,
                Sampling(request.temperature or 0.0, top_p, seed + choice),
                partial(self._take, prompt * choices + choice),
                request.alternatives,
                job.prepared.guide(),
                request.preferences,
                job.owner,
                siblings=choices > 1,
            )
            for prompt, ids in enumerate(job.prepared.prompts)
            for choice in range(choices)
        ]

    def __len__(self) -> int:
        return len(self._generations)

    @property
    def cached(self) -> int:
        """Tokens of the prompts that needed no prefill, each prompt counted once."""
        first: dict[int, int] = {}
        for generation in self._generations:
            first.setdefault(id(generation.ids), generation.cached)
        return sum(first.values())

    def _take(self, number: int, item: Token | str | BaseException) -> None:
        """Receive an item in the batcher's thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads any more
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, (number, item))

    def end(self, number: int) -> None:
        """End a sequence: its answer is complete."""
        self._service.batcher.cancel(self._generations[number])

    async def items(self) -> AsyncGenerator[tuple[int, Token | str]]:
        """Yield the number of a sequence, and its next token or why it ended, until all ended.

        Closing this generator cancels the sequences. A reader that is slow does not delay the
        batch: what was generated waits here, and that is at most `max_new_tokens` a sequence.
        """
        running = len(self)
        outcome = "cancelled"
        first = True
        try:
            while running:
                number, item = await self._arrived.get()
                if isinstance(item, BaseException):
                    outcome = "failed"
                    raise item
                if first:
                    self._service.first.observe(time.perf_counter() - self._begin)
                    first = False
                if isinstance(item, str):
                    running -= 1
                    outcome = outcome if running else item
                yield number, item
        finally:
            for number in range(len(self)):
                self.end(number)
            self._service.requests.labels(outcome).inc()
