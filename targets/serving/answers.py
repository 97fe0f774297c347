"""Answer a request in OpenAI's format: as one JSON document, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .door import OWNER
from .failures import GONE, Rejected, failure
from .formats import AnswerFormat, ChatFormat, CompletionFormat
from .reasoning import Reasoning
from .requests import ChatRequest, CompletionRequest
from .running import Job, Running
from .sequence import Stopped
from .service import Service
from .writing import AnswerText, Piece

__all__ = ["answer"]


async def answer(service: Service, http: Request, request: CompletionRequest | ChatRequest) -> Any:
    """Generate the answer to a request, whole or as a stream of events.

    If the client leaves, the work ends, wherever it is: tokenizing, waiting, prefill, decoding.

    Args:
        service: the loaded artifact.
        http: the HTTP request, which knows whether the client is still there.
        request: the request; `stream` decides whether the answer is streamed.

    Raises:
        Rejected: the request cannot be served, or the client has left.
        QueueFull: too many requests are waiting.
    """
    work = asyncio.ensure_future(_answer(service, request, http.scope[OWNER]))
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise Rejected(GONE, "the client has left")
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnected(http: Request) -> None:
    """Wait until the client closes the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _answer(service: Service, request: CompletionRequest | ChatRequest, owner: int) -> Any:
    answers = _Answers(Job(service, request, await service.prepared(request), owner))
    updates = answers.updates()
    first = await anext(updates)  # before any output, so that a full queue is an HTTP status
    if request.stream:
        return EventStream(_events(first, updates, answers), updates)
    async with aclosing(updates):
        return await _whole(first, updates, answers)


class _Update(NamedTuple):
    """More of the answer with this number, and why it ended (None: it goes on)."""

    number: int
    piece: Piece
    reason: str | None


class _Answers:
    """The answers to one request, while they are generated."""

    def __init__(self, job: Job) -> None:
        request = job.request
        prepared = job.prepared
        vocabulary = job.service.prompts.vocabulary
        chat = isinstance(request, ChatRequest)
        self.format: AnswerFormat = (ChatFormat if chat else CompletionFormat)(vocabulary)
        self.scored = request.alternatives is not None
        self.with_usage = request.with_usage
        self.head = {
            "id": f"{self.format.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": job.service.name,
        }
        self._prompt_tokens = sum(map(len, prepared.prompts))
        self._running = Running(job)
        self.texts = [
            AnswerText(
                vocabulary.decode_marked if chat else vocabulary.decode,
                request.stops,
                Reasoning(prepared.reasons) if chat else None,
                prepared.calls(),
            )
            for _ in range(len(self._running))
        ]

    async def updates(self) -> AsyncGenerator[_Update]:
        """Yield what becomes final, of all answers. Closing it cancels them."""
        async with aclosing(self._running.items()) as items:
            async for number, item in items:
                text = self.texts[number]
                if text.reason:
                    continue  # it ended with a stop text, and the sequence a step later
                piece = text.finish(item) if isinstance(item, str) else text.add(item)
                if text.reason and not isinstance(item, str):
                    self._running.end(number)
                yield _Update(number, piece, text.reason)

    @property
    def usage(self) -> dict[str, Any]:
        """The number of tokens so far."""
        count = sum(text.count for text in self.texts)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": count,
            "total_tokens": self._prompt_tokens + count,
            "prompt_tokens_details": {"cached_tokens": self._running.cached},
            "completion_tokens_details": {
                "reasoning_tokens": sum(text.reasoning_count for text in self.texts)
            },
        }


async def _whole(
    first: _Update, updates: AsyncGenerator[_Update], answers: _Answers
) -> dict[str, Any]:
    """The answers as one document."""
    pieces: list[list[Piece]] = [[] for _ in answers.texts]
    pieces[first.number].append(first.piece)
    async for update in updates:
        pieces[update.number].append(update.piece)
    choices = [
        {
            "index": number,
            **answers.format.answer(pieces[number], answers.scored),
            "finish_reason": text.reason,
        }
        for number, text in enumerate(answers.texts)
    ]
    return {
        **answers.head,
        "object": answers.format.whole,
        "choices": choices,
        "usage": answers.usage,
    }


class EventStream(StreamingResponse):
    """A streamed answer. It ends its sequences however the response ends.

    Args:
        events: the events.
        updates: what the events are made of; closing it ends the sequences.
    """

    def __init__(self, events: AsyncGenerator[str], updates: AsyncGenerator[Any]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._updates = updates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last one, or until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await cast(AsyncGenerator[str], self.body_iterator).aclose()
            await self._updates.aclose()  # the events may not have begun


async def _events(
    first: _Update, updates: AsyncGenerator[_Update], answers: _Answers
) -> AsyncGenerator[str]:
    """The answers as server-sent events: `data: JSON` for each piece, and `data: [DONE]` last.

    The status was sent before, so an answer that fails ends with an event that has an `error`.
    """
    try:
        async with aclosing(updates):
            writer = _Events(answers)
            for event in writer.of(first):
                yield event
            async for update in updates:
                for event in writer.of(update):
                    yield event
            if answers.with_usage:
                yield writer.event([], answers.usage)
            yield "data: [DONE]\n\n"
    except Stopped as error:
        yield _data(failure(503, str(error)))
    except Exception as error:  # whatever ONNX Runtime raises
        yield _data(failure(500, str(error)))


@dataclass
class _Events:
    """Writes updates as events."""

    answers: _Answers

    def __post_init__(self) -> None:
        self._opened: set[int] = set()
        self._calls = Counter[int]()

    def of(self, update: _Update) -> list[str]:
        """The events of an update."""
        format = self.answers.format
        calls = self._calls[update.number]
        choices = format.deltas(update.piece, self.answers.scored, calls)
        self._calls[update.number] += sum(part.kind == "call" for part in update.piece.parts)
        opening = format.opening()
        if opening and update.number not in self._opened:
            choices.insert(0, opening)
        self._opened.add(update.number)
        entries = [{"index": update.number, **one, "finish_reason": None} for one in choices]
        if update.reason:
            end = {**format.ending(), "finish_reason": update.reason}
            entries.append({"index": update.number, **end})
        return [self.event([entry]) for entry in entries]

    def event(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        """One event."""
        body: dict[str, Any] = {**self.answers.head, "object": self.answers.format.part}
        body["choices"] = choices
        if self.answers.with_usage:
            body["usage"] = usage
        return _data(body)


def _data(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
