"""Honest clients: they send what the documentation says, and check what they get."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .wire import Address, Wire, connected, posted, read_head, read_lines, read_reply

__all__ = ["Tally", "honest_client", "reference_answers", "requests"]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPTS = 12
MANY = 20
"""Requests on one connection, after which a client makes a new one."""


@dataclass
class Tally:
    """What clients of one side met.

    Attributes:
        done: served or refused as expected, by kind of request.
        faults: descriptions of everything else.
        seconds: how long each request took, by kind.
        retries: answers with status 429, after which the client waited and asked again.
    """

    done: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    retries: int = 0

    def add(self, kind: str, seconds: float) -> None:
        """Count a request that went as expected."""
        self.done[kind] += 1
        self.seconds.setdefault(kind, []).append(seconds)


def requests() -> list[tuple[str, str, dict[str, Any]]]:
    """Kind, path and body of each request that honest clients choose from."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for number in range(PROMPTS):
        text = f"Tom has {number + 2} apples and buys {number + 3} more. How many has he?"
        turns = [{"role": "user", "content": text}]
        for stream in (False, True):
            more = {"max_tokens": 8 + number, "stream": stream}
            word = "stream" if stream else "whole"
            found.append((f"completion, {word}", COMPLETIONS, {"prompt": text, **more}))
            found.append((f"chat, {word}", CHAT, {"messages": turns, **more}))
    return found


async def ask(
    wire: Wire, address: Address, path: str, body: Mapping[str, Any], tally: Tally
) -> str:
    """The text of an answer. After a 429 the client waits as it is told, and asks again.

    Raises:
        ValueError: the answer is not what it must be.
    """
    while True:
        await wire.send(posted(path, address.key, body))
        if not body["stream"]:
            reply = await read_reply(wire)
            if reply.status == 429:
                await _wait(reply.headers, tally)
                continue
            return _whole_text(reply.status, reply.body)
        status, headers = await read_head(wire)
        if status == 429:
            await wire.reader.readexactly(int(headers["content-length"]))
            await _wait(headers, tally)
            continue
        if status != 200:
            raise ValueError(f"status {status}")
        return _streamed_text([line async for line in read_lines(wire)])


async def _wait(headers: Mapping[str, str], tally: Tally) -> None:
    tally.retries += 1
    await asyncio.sleep(float(headers["retry-after"]) * random.uniform(1, 1.5))


def _whole_text(status: int, body: bytes) -> str:
    if status != 200:
        raise ValueError(f"status {status}: {body[:200].decode(errors='replace')}")
    answer = json.loads(body)
    choice = answer["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"it ended with {choice['finish_reason']}")
    return _text_of(choice)


def _streamed_text(lines: Sequence[str]) -> str:
    if not lines or lines[-1] != "data: [DONE]":
        raise ValueError("a stream without an end")
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]
    if choices[-1]["finish_reason"] not in ("stop", "length"):
        raise ValueError(f"it ended with {choices[-1]['finish_reason']}")
    return "".join(map(_text_of, choices))


def _text_of(choice: Mapping[str, Any]) -> str:
    """The text of a choice, whole or of one event; in a chat, the reasoning and the answer."""
    if "text" in choice:
        return str(choice["text"])
    message = choice.get("message") or choice["delta"]
    return str(message.get("reasoning_content") or "") + str(message.get("content") or "")


def _compare(found: str, expected: str) -> None:
    if found != expected:
        raise ValueError("another answer than alone")


async def reference_answers(address: Address) -> dict[int, str]:
    """The answer to each of `requests`, from a server that has nothing else to do."""
    found: dict[int, str] = {}
    async with connected(address) as wire:
        for number, (_, path, body) in enumerate(requests()):
            found[number] = await ask(wire, address, path, body, Tally())
    return found


async def honest_client(
    address: Address, end: float, tally: Tally, expected: Mapping[int, str], seed: int
) -> None:
    """Ask until a time on the clock, and compare every answer with the expected one."""
    choose = random.Random(seed)
    known = requests()
    while time.monotonic() < end:
        kind = "connecting"
        try:
            async with connected(address) as wire:
                for _ in range(MANY):
                    if time.monotonic() >= end:
                        break
                    number = choose.randrange(len(known))
                    kind, path, body = known[number]
                    began = time.perf_counter()
                    _compare(await ask(wire, address, path, body, tally), expected[number])
                    tally.add(kind, time.perf_counter() - began)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
            tally.faults[f"{kind}: {type(error).__name__}: {error}"] += 1
            await asyncio.sleep(1)
