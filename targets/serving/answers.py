"""Answer a request in OpenAI's format: as one JSON document, or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi.responses import StreamingResponse

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
    request: CompletionRequest | ChatRequest,
    ids: list[int],
    format: AnswerFormat,
) -> Any:
    """Generate the answer to a request, whole or as a stream of events.

    Args:
        service: the loaded artifact.
        request: the request; `stream` decides whether the answer is streamed.
        ids: tokens of the prompt.
        format: the endpoint's answer format.

    Raises:
        Rejected: the request cannot be served.
        QueueFull: too many requests are waiting.
    """
    service.check(request.model, ids)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    pieces = _pieces(service, request, ids, stops)
    first = await anext(pieces)  # before any output, so that a full queue is an HTTP status
    if request.stream:
        return StreamingResponse(
            _events(first, pieces, head, format), media_type="text/event-stream"
        )
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
    service: Service, request: CompletionRequest | ChatRequest, ids: list[int], stops: list[str]
) -> AsyncGenerator[Piece]:
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


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece], head: dict[str, Any], format: AnswerFormat
) -> AsyncIterator[str]:
    """The answer as server-sent events: `data: JSON` for each piece, and `data: [DONE]` last."""
    try:
        piece: Piece | None = first
        while piece is not None:
            text, reason, _ = piece
            if text or reason:
                choice = format.choice(text, reason, streamed=True)
                event = json.dumps({**head, "object": format.part, "choices": [choice]})
                yield f"data: {event}\n\n"
            piece = await anext(pieces, None)
        yield "data: [DONE]\n\n"
    finally:
        await pieces.aclose()
