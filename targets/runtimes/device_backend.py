"""A runtime on a device as a `Backend`: tasks are scored with it as with any model.

The task code of `benchmarks/tasks` is synchronous and runs in a thread; the connection to the
device belongs to an event loop in another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ...console import Bar
from ...errors import UsageError
from ...generation.decoding import Decoding
from .interface import Ask, DeviceRuntime, Reply, Scored, Session, Stop

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeviceBackend", "RememberedSession"]

T = TypeVar("T")


class RememberedSession:
    """A session that does not ask again what was answered before the connection broke.

    Args:
        session: the running one.
        known: the answers so far, which is extended.
    """

    def __init__(self, session: Session, known: dict[Any, Any]) -> None:
        self._session = session
        self._known = known
        self.provider = session.provider
        self.load_s = session.load_s
        self.details = session.details

    async def answer(self, ask: Ask, complete: Stop | None = None) -> Reply:
        """See `Session.answer`."""
        reply: Reply | None = self._known.get(ask)
        if reply is None or not _is_complete(reply.tokens, ask, complete):
            reply = await self._session.answer(ask, complete)
            self._known[ask] = reply
        return reply

    async def score(
        self, ids: Sequence[int], continuation: Sequence[int], top: int
    ) -> Scored | None:
        """See `Session.score`."""
        key = (tuple(ids), tuple(continuation), top)
        if key not in self._known:
            self._known[key] = await self._session.score(ids, continuation, top)
        return self._known[key]


def _is_complete(tokens: Sequence[int], ask: Ask, complete: Stop | None) -> bool:
    ended = bool(tokens) and (tokens[-1] in ask.ends or len(tokens) >= ask.new_tokens)
    return ended or (complete is not None and bool(tokens) and complete(tokens))


class DeviceBackend:
    """See `Backend`. Answers are generated one after the other.

    Args:
        session: the running runtime.
        runtime: its kind.
        precision: of the artifact.
        eos: tokens that end an answer.
        loop: the event loop of the connection.
    """

    def __init__(
        self,
        session: Session,
        runtime: DeviceRuntime,
        precision: str,
        eos: Sequence[int],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.name = runtime.name
        self.dtype = precision
        self.device = session.provider
        self.eos = list(eos)
        self._session = session
        self._loop = loop

    def logits(self, ids: Tensor, mask: Tensor) -> Tensor:
        """A device sends no logits of whole texts: they are too many."""
        del ids, mask
        raise UsageError(
            f"{self.name} on a device gives no logits of whole texts",
            "score tasks there that generate answers: reasoning, gym, qa or code",
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        """See `Backend.generate`."""
        answers: list[list[int]] = []
        for prompt in prompts:
            ask = Ask(tuple(prompt), decoding.max_new_tokens, tuple(decoding.ends))
            reply = self._wait(self._session.answer(ask, decoding.ended))
            answers.append([*reply.tokens])
            bar.advance(1)
        return answers

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
