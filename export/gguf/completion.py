"""Requests to llama-server's own `/completion`, in token ids, and its answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import EdgewrightError

__all__ = ["GREEDY", "PATH", "Completion", "completion_body", "older", "read_completion"]

PATH = "/completion"
GREEDY: dict[str, Any] = {"temperature": 0, "samplers": ["top_k"], "top_k": 1, "seed": 0}


@dataclass(frozen=True)
class Completion:
    """An answer of the server.

    Attributes:
        tokens: what was generated, with the token that ended it.
        first_s: seconds to the first token.
        rest_s: seconds of all later tokens together.
        ended: whether the model ended it, and not the limit of tokens.
    """

    tokens: tuple[int, ...]
    first_s: float
    rest_s: float
    ended: bool

    @property
    def token_s(self) -> float:
        """Seconds of each token after the first, on average."""
        return self.rest_s / max(len(self.tokens) - 1, 1)


def completion_body(
    ids: Sequence[int], new_tokens: int, *, ends: bool, slot: int | None = None
) -> dict[str, Any]:
    """A request for the greedy continuation of a prompt.

    Args:
        ids: the prompt.
        new_tokens: the most tokens of the answer.
        ends: whether the model may end it before.
        slot: the place of the server that answers, which reuses what it has of the same prompt;
            None: any, and nothing is reused.
    """
    place = {} if slot is None else {"id_slot": slot}
    return {
        "prompt": [*ids],
        "n_predict": new_tokens,
        "return_tokens": True,
        "cache_prompt": slot is not None,
        "ignore_eos": not ends,
        **place,
        **GREEDY,
    }


def read_completion(found: Mapping[str, Any]) -> Completion:
    """What the server answered.

    Raises:
        EdgewrightError: it lacks what current servers say.
    """
    try:
        times = found["timings"]
        return Completion(
            tuple(int(token) for token in found["tokens"]),
            float(times["prompt_ms"]) / 1000,
            float(times["predicted_ms"]) / 1000,
            found.get("stop_type") == "eos",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise older(found) from error


def older(found: Mapping[str, Any]) -> EdgewrightError:
    """The error of an answer that lacks a field."""
    return EdgewrightError(
        f"llama-server's answer has not the fields that current ones have: {', '.join(found)}",
        "update llama.cpp",
    )
