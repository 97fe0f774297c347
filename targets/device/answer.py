"""Answer many prompts on the device: `run.sh answer`, by the line protocol.

    host:   {"ids": [1, 2], "new_tokens": 8, "ends": [0]}            answer a prompt greedily
    device: {"token": 5}                                             for each new token
    device: {"done": {"first_s": ..., "token_s": [...], ...}}        at the end of an answer
    host:   {"stop": true}                                           end this answer now
    host:   {"ids": [1, 2], "continuation": [5, 6], "top": 64}       score a known continuation
    device: {"scored": {"ids": [[...]], "logprobs": [[...]], "not_finite": 0}}

A prompt is prefilled at once and its continuation is decoded token by token with a cache, as every
answer is. So a score also tests the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from ...benchmarks.latency.energy import EnergyMeter
from ...benchmarks.latency.worker import peak_rss
from ...errors import UsageError
from .lines import Lines, send

__all__ = ["answer_lines"]

MAX_TOKENS = 1 << 20
MAX_TOP = 1024


def answer_lines(opened: Callable[[], Any]) -> dict[str, Any]:
    """Answer requests until the input ends; returns how many there were.

    Args:
        opened: loads the model: see `decoders.py`.
    """
    begin = time.perf_counter()
    decoder = opened()
    load_s = time.perf_counter() - begin
    send({"ready": {"provider": decoder.provider, "details": decoder.details, "load_s": load_s}})
    lines = Lines()
    answered = 0
    while (request := lines.next()) is not None:
        if "stop" in request:  # the answer had ended before it arrived
            continue
        if "continuation" in request:
            send({"scored": _score(decoder, request)})
        else:
            send({"done": _answer(decoder, request, lines)})
        answered += 1
    return {"answered": answered}


def _tokens(request: dict[str, Any], key: str, vocabulary: int, least: int) -> list[int]:
    """A list of token ids of a request."""
    given = request.get(key)
    found = cast(list[Any], given) if isinstance(given, list) else []
    valid = isinstance(given, list) and least <= len(found) <= MAX_TOKENS
    if not valid or not all(type(one) is int and 0 <= one < vocabulary for one in found):
        raise UsageError(
            f"`{key}` of a request is no list of tokens",
            f"{least} to {MAX_TOKENS:,} numbers below {vocabulary:,}",
        )
    return found


def _number(request: dict[str, Any], key: str, most: int) -> int:
    found = request.get(key)
    if type(found) is not int or not 0 < found <= most:
        raise UsageError(f"`{key}` of a request is {found!r:.40}", f"a number up to {most:,}")
    return found


def _answer(decoder: Any, request: dict[str, Any], lines: Lines) -> dict[str, Any]:
    from ...export.onnx.token_loop import stream  # late: it imports numpy

    ids = _tokens(request, "ids", decoder.vocabulary, 1)
    ends = _tokens(request, "ends", MAX_TOKENS, 0)
    seconds: list[float] = []
    with EnergyMeter() as meter:
        begin = time.perf_counter()
        for token in stream(decoder, ids, _number(request, "new_tokens", MAX_TOKENS), ends):
            seconds.append(time.perf_counter() - begin)
            send({"token": token})
            if lines.is_interrupted():
                break
            begin = time.perf_counter()
    return {
        "first_s": seconds[0],
        "token_s": seconds[1:],
        "joules": meter.joules,
        "peak_rss_bytes": peak_rss(),
    }


def _score(decoder: Any, request: dict[str, Any]) -> dict[str, Any]:
    """The most likely tokens at every position of a continuation, with their log-probabilities."""
    import numpy as np

    ids = _tokens(request, "ids", decoder.vocabulary, 1)
    continuation = _tokens(request, "continuation", decoder.vocabulary, 1)
    top = min(_number(request, "top", MAX_TOP), decoder.vocabulary)
    cache = decoder.open_cache(1, len(ids) + len(continuation))
    found: dict[str, Any] = {"ids": [], "logprobs": [], "not_finite": 0}
    step = ids
    for token in continuation:
        tokens = np.asarray([step], np.int64)
        mask = np.ones((1, cache.length + len(step)), np.int64)
        best, logprobs, finite = _most_likely(decoder.step(tokens, mask, cache)[0, -1], top)
        found["ids"].append(best)
        found["logprobs"].append(logprobs)
        found["not_finite"] += not finite
        step = [token]
    return found


def _most_likely(logits: Any, top: int) -> tuple[Sequence[int], Sequence[float], bool]:
    """The `top` most likely tokens, their log-probabilities, and whether all logits are finite."""
    import numpy as np

    values = logits.astype(np.float64)
    finite = bool(np.isfinite(values).all())
    values = np.nan_to_num(values, nan=-1e9, posinf=1e9, neginf=-1e9)
    best = np.argsort(-values, kind="stable")[:top]
    values -= values.max()
    logprobs = values[best] - np.log(np.exp(values).sum())
    return best.tolist(), [round(one, 5) for one in logprobs.tolist()], finite
