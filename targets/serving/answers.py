"""Answer a request in OpenAI's format: as one JSON document, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .batcher import Stopped
from .failures import GONE, Rejected, failure
from .schemas import ChatRequest, CompletionRequest
from .service import Service
from .text import TextStream

__all__ = ["CHAT", "COMPLETION", "AnswerFormat", "answer"]


@dataclass(frozen=True)
class AnswerFormat:
    """The differences between the answers of the two endpoints.

    Attributes:
        whole: the `object` field of a whole answer.
        part: the `object` field of one event of a streamed answer.
    """

    whole: str
    part: str

    def choice(self, text: str, reason: str | None, *, streamed: bool) -> dict[str, Any]:
        """The entry of `choices`: the text, and why the answer ended (None if it goes on)."""
        if self.whole == "text_completion":
            body: dict[str, Any] = {"text": text}
        else:
            body = {"delta" if streamed else "message": {"role": "assistant", "content": text}}
        return {"index": 0, **body, "finish_reason": reason}


COMPLETION = AnswerFormat("text_completion", "text_completion")
CHAT = AnswerFormat("chat.completion", "chat.completion.chunk")

Piece = tuple[str, str | None, int]
"""A piece of text, why the answer ended (None if it goes on), and the number of tokens so far."""


async def answer(
    service: Service,
    http: Request,
    request: CompletionRequest | ChatRequest,
    format: AnswerFormat,
) -> Any:
    """Generate the answer to a request, whole or as a stream of events.

    If the client leaves, the work ends, wherever it is: tokenizing, waiting, prefill, decoding.

    Args:
        service: the loaded artifact.
        http: the HTTP request, which knows whether the client is still there.
        request: the request; `stream` decides whether the answer is streamed.
        format: the endpoint's answer format.

    Raises:
        Rejected: the request cannot be served, or the client has left.
        QueueFull: too many requests are waiting.
    """
    work = asyncio.ensure_future(_answer(service, request, format))
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


async def _answer(
    service: Service, request: CompletionRequest | ChatRequest, format: AnswerFormat
) -> Any:
    ids = await service.prompt_ids(request)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    pieces = _pieces(service, request, ids)
    first = await anext(pieces)  # before any output, so that a full queue is an HTTP status
    if request.stream:
        return EventStream(_events(first, pieces, head, format), media_type="text/event-stream")
    text, reason, count = first
    while not reason:
        piece, reason, count = await anext(pieces)
        text += piece
    usage = {
        "prompt_tokens": len(ids),
        "completion_tokens": count,
        "total_tokens": len(ids) + count,
    }
    choice = format.choice(text, reason, streamed=False)
    return {**head, "object": format.whole, "choices": [choice], "usage": usage}


async def _pieces(
    service: Service, request: CompletionRequest | ChatRequest, ids: list[int]
) -> AsyncGenerator[Piece]:
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    stream = TextStream(service.decode, stops)
    count = 0
    tokens = service.tokens(ids, request)
    try:
        async for item in tokens:
            if isinstance(item, str):
                yield stream.finish(), item, count
                return
            count += 1
            piece = stream.add(item)
            if stream.stopped:
                yield piece, "stop", count
                return
            yield piece, None, count
    finally:
        await tokens.aclose()


class EventStream(StreamingResponse):
    """A streamed answer. It ends its sequence however the response ends."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until the last one, or until the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await cast(AsyncGenerator[str], self.body_iterator).aclose()


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece], head: dict[str, Any], format: AnswerFormat
) -> AsyncGenerator[str]:
    """The answer as server-sent events: `data: JSON` for each piece, and `data: [DONE]` last.

    The status was sent before, so an answer that fails ends with an event that has an `error`.
    """
    try:
        piece: Piece | None = first
        while piece is not None:
            text, reason, _ = piece
            if text or reason:
                choice = format.choice(text, reason, streamed=True)
                yield _event({**head, "object": format.part, "choices": [choice]})
            piece = await anext(pieces, None)
        yield "data: [DONE]\n\n"
    except Stopped as error:
        yield _event(failure(503, str(error)))
    except Exception as error:  # whatever ONNX Runtime raises
        yield _event(failure(500, str(error)))
    finally:
        await pieces.aclose()


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"
