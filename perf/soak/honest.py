"""Honest clients: they send what the documentation says, and check what they get."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from .requests import Request, requests
from .wire import Address, Wire, connected, posted, read_head, read_lines, read_reply

__all__ = ["Known", "Tally", "honest_client", "reference_answers"]

MANY = 20
"""Requests on one connection, after which a client makes a new one."""
ENDS = ("stop", "length", "tool_calls")


class Known(NamedTuple):
    """A request, and the text of its answer."""

    request: Request
    text: str


class Unsupported(Exception):
    """The model that is served has no tools."""


@dataclass
class Tally:
    """What clients of one side met.

    Attributes:
        done: served or refused as expected, by kind of request.
        faults: descriptions of everything else.
        seconds: how long each request took, by kind.
        retries: answers with status 429, after which the client waited and asked again.
        prompt_tokens: tokens of the prompts.
        cached_tokens: those of them that the server knew from earlier requests.
    """

    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def add(self, kind: str, seconds: float) -> None:
        """Count a request that went as expected."""
        self.done[kind] += 1
        self.seconds.setdefault(kind, []).append(seconds)

    def use(self, usage: Mapping[str, Any]) -> None:
        """Add the server's own count of an answer."""
        self.prompt_tokens += usage["prompt_tokens"]
        self.cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]


async def ask(wire: Wire, address: Address, request: Request, tally: Tally) -> str:
    """The text of an answer. After a 429 the client waits as it is told, and asks again.

    Raises:
        Unsupported: the model has no tools.
        ValueError: the answer is not what it must be.
    """
    while True:
        await wire.send(posted(request.path, address.key, request.body))
        if not request.body["stream"]:
            reply = await read_reply(wire)
            if reply.status == 429:
                await _wait(reply.headers, tally)
                continue
            return _whole_text(reply.status, reply.body, tally)
        status, headers = await read_head(wire)
        if status == 429:
            await wire.reader.readexactly(int(headers["content-length"]))
            await _wait(headers, tally)
            continue
        if status != 200:
            _refuse(status, await wire.reader.readexactly(int(headers["content-length"])))
        return _streamed_text([line async for line in read_lines(wire)], tally)


async def _wait(headers: Mapping[str, str], tally: Tally) -> None:
    tally.retries += 1
    await asyncio.sleep(float(headers["retry-after"]) * random.uniform(1, 1.5))


def _refuse(status: int, body: bytes) -> NoReturn:
    if status == 400 and json.loads(body)["error"]["param"] == "tools":
        raise Unsupported
    raise ValueError(f"status {status}: {body[:200].decode(errors='replace')}")


def _whole_text(status: int, body: bytes, tally: Tally) -> str:
    if status != 200:
        _refuse(status, body)
    answer = json.loads(body)
    tally.use(answer["usage"])
    return _checked([answer["choices"][0]])


def _streamed_text(lines: Sequence[str], tally: Tally) -> str:
    if not lines or lines[-1] != "data: [DONE]":
        raise ValueError("a stream without an end")
    *events, last = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    tally.use(last["usage"])
    return _checked([event["choices"][0] for event in events])


def _checked(choices: Sequence[Mapping[str, Any]]) -> str:
    """The text of an answer, whose last choice says why it ended."""
    if choices[-1]["finish_reason"] not in ENDS:
        raise ValueError(f"it ended with {choices[-1]['finish_reason']}")
    return "".join(map(_text_of, choices))


def _text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice, whole or of one event; in a chat, reasoning, answer and calls."""
    if "text" in choice:
        return str(choice["text"])
    message = choice.get("message") or choice["delta"]
    calls = [call["function"]["arguments"] for call in message.get("tool_calls") or []]
    parts = [message.get("reasoning_content"), message.get("content"), *calls]
    return "".join(str(part or "") for part in parts)


def _compare(found: str, known: Known) -> None:
    if found != known.text:
        raise ValueError("another answer than alone")


async def reference_answers(address: Address) -> list[Known]:
    """The answers of a server that has nothing else to do, to all `requests` that it supports."""
    found: list[Known] = []
    for request in requests():
        async with connected(address) as wire:
            try:
                found.append(Known(request, await ask(wire, address, request, Tally())))
            except Unsupported:
                continue
    return found


async def honest_client(
    address: Address, end: float, tally: Tally, known: Sequence[Known], seed: int
) -> None:
    """Ask until a time on the clock, and compare every answer with the known one."""
    choose = random.Random(seed)
    while time.monotonic() < end:
        kind = "connecting"
        try:
            async with connected(address) as wire:
                for _ in range(MANY):
                    if time.monotonic() >= end:
                        break
                    one = choose.choice(known)
                    kind = one.request.kind
                    began = time.perf_counter()
                    _compare(await ask(wire, address, one.request, tally), one)
                    tally.add(kind, time.perf_counter() - began)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
            tally.faults[f"{kind}: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(1)
