"""The metrics of a load, what makes them comparable, and what people must know about them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...data.shortfall import shortfall
from ..latency.timing import percentile
from .load import LoadResult
from .options import LoadOptions
from .prompts import Prompts
from .timing import RequestTiming

__all__ = ["count_tokens", "load_context", "load_metrics", "load_notes"]

SHARES = (50, 90, 99)
LATE = 0.05
"""Seconds that a request may be sent after it was due without a note."""
MOST_REASONS = 3


def count_tokens(timing: RequestTiming, count: Callable[[str], int] | None) -> None:
    """Decide how many tokens an answer has: by the usage, a tokenizer, or the number of events.

    Args:
        timing: the request.
        count: counts the tokens of a text.
    """
    if timing.usage.output_tokens:
        timing.output_tokens = timing.usage.output_tokens
        timing.counted = "usage"
    elif count is not None:
        timing.output_tokens = count("".join(timing.text))
        timing.counted = "tokenizer"
    else:
        timing.output_tokens = timing.events
        timing.counted = "events"
    timing.text.clear()


def load_metrics(result: LoadResult) -> dict[str, float]:
    """The metrics of a load by name; none if nothing was sent, one if all requests failed.

    Percentiles are over requests, of ITL over all intervals of all requests (both as vLLM). The
    rates are the tokens and requests of complete answers divided by the seconds of the load.
    """
    if not result.timings:
        return {}
    done = result.done
    found: dict[str, float] = {f"failed_requests/{result.name}": len(result.timings) - len(done)}
    if not done:
        return found
    times = {
        "ttft_ms": [one.ttft for one in done],
        "itl_ms": [gap for one in done for gap in one.gaps],
        "tpot_ms": [one.tpot for one in done if one.tpot is not None],
        "e2e_ms": [one.e2e for one in done],
    }
    for kind, seconds in times.items():
        for share in SHARES if seconds else ():
            name = f"{kind}/p{share}/{result.name}"
            found[name] = percentile(seconds, share / 100) * 1000
    tokens = sum(one.output_tokens for one in done)
    found[f"output_tok_s/{result.name}"] = tokens / result.seconds
    found[f"requests_s/{result.name}"] = len(done) / result.seconds
    return found


def load_context(result: LoadResult, prompts: Prompts) -> dict[str, Any]:
    """What must be equal for the metrics of a load to be compared, and what is good to know."""
    done = result.done
    if not done:
        return {}
    read = [_prompt_tokens(one, prompts) for one in done]
    written = [one.output_tokens for one in done]
    cached = sum(one.usage.cached_tokens or 0 for one in done)
    return {
        f"load/{result.name}": {
            "requests": len(result.timings),
            "prompt_tokens": _typical(read),
            "output_tokens": _typical(written),
            "tokens_counted": _counted(done),
        },
        f"load_details/{result.name}": {
            "seconds": round(result.seconds, 3),
            "prompt_tokens": sum(one or 0 for one in read),
            "cached_prompt_tokens": cached,
            "output_tokens": sum(written),
            "events": sum(one.events for one in done),
        },
    }


def _prompt_tokens(timing: RequestTiming, prompts: Prompts) -> int | None:
    return timing.usage.prompt_tokens or prompts.counted


def _typical(counts: Sequence[int | None]) -> float | None:
    """The count if all are equal, else their mean with one decimal; None if one is not known."""
    known = [one for one in counts if one is not None]
    if len(known) < len(counts):
        return None
    return known[0] if len(set(known)) == 1 else round(statistics.fmean(known), 1)


def _counted(done: Sequence[RequestTiming]) -> str:
    return "+".join(sorted({one.counted for one in done}))


def load_notes(results: Sequence[LoadResult], options: LoadOptions, prompts: Prompts) -> list[str]:
    """What happened other than what was asked for; what all loads share, once."""
    loads: dict[str, list[str]] = {}
    for result in results:
        for note in _notes(result, options, prompts):
            loads.setdefault(note, []).append(result.name)
    return [f"{', '.join(names)}: {note}" for note, names in loads.items()]


def _notes(result: LoadResult, options: LoadOptions, prompts: Prompts) -> list[str]:
    done = result.done
    asked = options.count(result.load)
    late = f"--time-limit {options.time_limit:g} s was over"
    notes = shortfall(len(result.timings), asked, "requests were sent", late)
    failed = [one.error for one in result.timings if one.error]
    if failed:
        reasons = Counter(failed).most_common(MOST_REASONS)
        text = "; ".join(f"{why} ({count} times)" for why, count in reasons)
        more = len(set(failed)) - len(reasons)
        more_text = f"; and {more} other reasons" if more > 0 else ""
        notes.append(
            f"{len(failed)} of {len(result.timings)} requests failed and are in no other figure: "
            f"{text}{more_text}"
        )
    if done:
        read = [_prompt_tokens(one, prompts) for one in done]
        notes += _other_length("prompts", read, options.prompt_tokens)
        written = [one.output_tokens for one in done]
        notes += _other_length("answers", written, options.output_tokens)
        notes += _counting(done)
    if result.late > LATE:
        notes.append(
            f"this machine sent requests up to {result.late * 1000:.0f} ms after they were due"
        )
    return notes


def _other_length(what: str, counts: Sequence[int | None], asked: int) -> Iterator[str]:
    known = [one for one in counts if one is not None]
    if len(known) < len(counts):
        yield f"the server does not say how many tokens its {what} have"
    elif set(known) != {asked}:
        low = min(known)
        high = max(known)
        span = f"{low}" if low == high else f"{low} to {high}"
        yield f"{what} have {span} tokens, of the {asked} asked for"


def _counting(done: Sequence[RequestTiming]) -> Iterator[str]:
    """How tokens were counted if not by the server, and what is unlike one event a token."""
    if any(one.counted == "events" for one in done):
        yield "the server sends no usage: each event of a stream counts as a token"
    elif any(one.counted == "tokenizer" for one in done):
        yield "the server sends no usage: answers were counted with --tokenizer"
    events = sum(one.events for one in done)
    tokens = sum(one.output_tokens for one in done)
    if abs(events - tokens) > 0.02 * tokens:
        yield (
            f"{tokens:,} tokens came in {events:,} events: itl_ms is the time between events, "
            "tpot_ms that of a token"
        )
    cached = sum(one.usage.cached_tokens or 0 for one in done)
    read = sum(one.usage.prompt_tokens or 0 for one in done)
    if cached > 0.02 * read:
        yield f"{cached:,} of {read:,} prompt tokens were in the server's cache: TTFT is shorter"
