"""How the answers of the two endpoints look: whole, and as events of a stream."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from .sequence import Token
from .tool_formats import Call
from .vocabulary import Vocabulary
from .writing import Part, Piece

__all__ = ["AnswerFormat", "ChatFormat", "CompletionFormat"]

NAMES = {"reasoning": "reasoning_content", "content": "content"}
"""The fields of a message that have the parts of an answer."""
LEAST_LOGPROB = -9999.0
"""What JSON says for minus infinity; OpenAI's own number."""


class AnswerFormat:
    """The entries of `choices` of an endpoint.

    Args:
        vocabulary: spells the tokens that have log probabilities.

    Attributes:
        prefix: of the id of an answer.
        whole: the `object` field of a whole answer.
        part: the `object` field of an event of a streamed answer.
    """

    prefix: str
    whole: str
    part: str

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary

    def answer(self, pieces: Sequence[Piece], scored: bool) -> dict[str, Any]:
        """A whole answer.

        Args:
            pieces: all of it.
            scored: whether it has log probabilities.
        """
        raise NotImplementedError

    def opening(self) -> dict[str, Any] | None:
        """What the first event of an answer has; None: there is no such event."""
        return None

    def deltas(self, piece: Piece, scored: bool, calls: int) -> list[dict[str, Any]]:
        """The events of a piece.

        Args:
            piece: what became final.
            scored: whether the events have log probabilities.
            calls: number of calls of tools in earlier pieces.
        """
        raise NotImplementedError

    def ending(self) -> dict[str, Any]:
        """What the last event of an answer has beside the reason."""
        raise NotImplementedError


class CompletionFormat(AnswerFormat):
    """`POST /v1/completions`."""

    prefix = "cmpl"
    whole = part = "text_completion"

    def answer(self, pieces: Sequence[Piece], scored: bool) -> dict[str, Any]:
        """See `AnswerFormat.answer`."""
        tokens = [token for piece in pieces for token in piece.tokens]
        text = _text(part for piece in pieces for part in piece.parts)
        return {"text": text, "logprobs": self._logprobs(tokens) if scored else None}

    def deltas(self, piece: Piece, scored: bool, calls: int) -> list[dict[str, Any]]:
        """See `AnswerFormat.deltas`."""
        return [self.answer([piece], scored)] if piece.parts or piece.tokens else []

    def ending(self) -> dict[str, Any]:
        """See `AnswerFormat.ending`."""
        return {"text": "", "logprobs": None}

    def _logprobs(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        return {
            "tokens": [self._name(token.id) for token, _ in tokens],
            "token_logprobs": [_rounded(token.logprob) for token, _ in tokens],
            "top_logprobs": [self._top(token) for token, _ in tokens],
            "text_offset": [offset for _, offset in tokens],
        }

    def _top(self, token: Token) -> dict[str, float]:
        named = {self._name(one): _rounded(logprob) for one, logprob in _others(token)}
        return {**named, self._name(token.id): _rounded(token.logprob)}

    def _name(self, token: int) -> str:
        """The text of a token, or its bytes if they are not whole characters."""
        text, raw = self._vocabulary.spelling(token)
        if text.encode() == raw:
            return text
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class ChatFormat(AnswerFormat):
    """`POST /v1/chat/completions`."""

    prefix = "chatcmpl"
    whole = "chat.completion"
    part = "chat.completion.chunk"

    def answer(self, pieces: Sequence[Piece], scored: bool) -> dict[str, Any]:
        """See `AnswerFormat.answer`."""
        parts = [part for piece in pieces for part in piece.parts]
        calls = [call for part in parts if (call := part.call)]
        text = _text(part for part in parts if part.kind == "content")
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if calls and not text else text,
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = list(map(_call, calls))
        if reasoning := _text(part for part in parts if part.kind == "reasoning"):
            message["reasoning_content"] = reasoning
        tokens = [token for piece in pieces for token in piece.tokens]
        return {"message": message, "logprobs": self._logprobs(tokens) if scored else None}

    def opening(self) -> dict[str, Any]:
        """See `AnswerFormat.opening`."""
        return {"delta": {"role": "assistant", "content": ""}, "logprobs": None}

    def deltas(self, piece: Piece, scored: bool, calls: int) -> list[dict[str, Any]]:
        """See `AnswerFormat.deltas`."""
        found: list[dict[str, Any]] = []
        for part in piece.parts:
            if part.call:
                delta: dict[str, Any] = {"tool_calls": [{"index": calls, **_call(part.call)}]}
                calls += 1
            else:
                delta = {NAMES[part.kind]: part.text}
            found.append({"delta": delta, "logprobs": None})
        if scored and piece.tokens:
            found = found or [{"delta": {"content": ""}}]
            found[-1]["logprobs"] = self._logprobs(piece.tokens)
        return found

    def ending(self) -> dict[str, Any]:
        """See `AnswerFormat.ending`."""
        return {"delta": {}, "logprobs": None}

    def _logprobs(self, tokens: Sequence[tuple[Token, int]]) -> dict[str, Any]:
        content = [
            {
                **self._entry(token.id, token.logprob),
                "top_logprobs": [self._entry(one, logprob) for one, logprob in _others(token)],
            }
            for token, _ in tokens
        ]
        return {"content": content, "refusal": None}

    def _entry(self, token: int, logprob: float | None) -> dict[str, Any]:
        text, raw = self._vocabulary.spelling(token)
        return {"token": text, "logprob": _rounded(logprob), "bytes": list(raw)}


def _text(parts: Iterable[Part]) -> str:
    return "".join(part.text for part in parts)


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    # Templates of Mistral accept ids of nine letters and digits only.
    return {"id": uuid.uuid4().hex[:9], "type": "function", "function": function}


def _others(token: Token) -> list[tuple[int, float]]:
    """The most likely tokens in the place of a token, and their log probabilities."""
    if token.others is None or token.other_logprobs is None:
        return []
    return list(zip(token.others.tolist(), token.other_logprobs.tolist(), strict=True))


def _rounded(logprob: float | None) -> float:
    return LEAST_LOGPROB if logprob is None else max(logprob, LEAST_LOGPROB)
