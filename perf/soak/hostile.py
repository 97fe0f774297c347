"""Hostile clients: each does one thing that must neither hurt the server nor the other clients."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable

from .honest import Tally
from .requests import CHAT, COMPLETIONS, requests
from .wire import Address, connected, head, posted, read_lines, read_reply

__all__ = ["ATTACKS", "hostile_client"]

LARGE = 20 * 10**6
SLOW_SECONDS = 15
TINY_BUFFER = 4096
LONG_STREAM = {"prompt": "Tom has", "max_tokens": 400, "stream": True, "temperature": 1.0}
LEFT = [
    (COMPLETIONS, LONG_STREAM),
    (COMPLETIONS, {**LONG_STREAM, "n": 3}),
    *(
        (one.path, {**one.body, "stream_options": None, "temperature": 1.0})
        for one in requests()
        if one.path == CHAT and one.body["stream"]
    ),
]
"""Paths and bodies of requests whose clients leave before the end."""
GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/x\r\n\r\n",
    b"\x00" * 5000,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
)


def _refused(path: str, body: object, code: int) -> Callable[[Address], Awaitable[str]]:
    """A request whose reply must have this status, and an error object.

    On a busy machine the time to send it may be over first: 408.
    """

    async def attack(address: Address) -> str:
        async with connected(address) as wire:
            await wire.send(posted(path, address.key, body))
            reply = await read_reply(wire)
        right = reply.status in (code, 408) and reply.refusal == reply.status
        return "" if right else f"status {reply.status}: {reply.body[:100]!r}"

    return attack


async def _large_body(address: Address) -> str:
    """20 MB. The refusal comes before the end, so sending the rest may fail."""
    async with connected(address) as wire:
        await wire.send(head(COMPLETIONS, address.key, LARGE))
        try:
            for _ in range(LARGE // 10**5):
                await wire.send(b"a" * 10**5)
            reply = await read_reply(wire)
        except ConnectionError:
            return ""
    return "" if reply.status == reply.refusal == 413 else f"status {reply.status}"


async def _garbage(address: Address) -> str:
    async with connected(address) as wire:
        await wire.send(random.choice(GARBAGE))
        try:
            reply = await read_reply(wire)
        except ConnectionError:
            return ""
    return "" if reply.status == reply.refusal == 400 else f"status {reply.status}"


async def _wrong_key(address: Address) -> str:
    async with connected(address) as wire:
        await wire.send(posted(COMPLETIONS, "wrong-" + address.key, {"prompt": "a"}))
        reply = await read_reply(wire)
    return "" if reply.status == reply.refusal == 401 else f"status {reply.status}"


async def _half_sent(address: Address) -> str:
    """A part of a request, and then nothing: the server must close the connection."""
    whole = posted(COMPLETIONS, address.key, {"prompt": "a" * 100})
    async with connected(address) as wire:
        await wire.send(whole[: random.randrange(len(whole))])
        try:
            reply = await read_reply(wire)
        except (ConnectionError, asyncio.IncompleteReadError):
            return ""
    return "" if reply.status == reply.refusal == 408 else f"status {reply.status}"


async def _slow_reader(address: Address) -> str:
    """Reads a few bytes a second."""
    async with connected(address, TINY_BUFFER) as wire:
        await wire.send(posted(COMPLETIONS, address.key, LONG_STREAM))
        for _ in range(SLOW_SECONDS):
            if not await wire.reader.read(16):
                break
            await asyncio.sleep(1)
        wire.cut()
    return ""


async def _no_reader(address: Address) -> str:
    """Asks for more than all buffers hold, and reads nothing: the server must close it."""
    page = f"GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {address.key}\r\n\r\n"
    async with connected(address, TINY_BUFFER) as wire:
        try:
            for _ in range(200):
                await wire.send(page.encode() * 20)
        except ConnectionError:
            return ""
        wire.cut()
    return ""


async def _leaves(address: Address) -> str:
    """Disconnects while it waits, or in the middle of a stream: of text, JSON, or several."""
    path, body = random.choice(LEFT)
    async with connected(address) as wire:
        body = {**body, "stream": random.random() < 0.7}
        await wire.send(posted(path, address.key, body))
        if body["stream"] and random.random() < 0.7:
            reply = read_lines(wire)
            for _ in range(random.randrange(8)):
                async with asyncio.timeout(60):
                    await wire.reader.readline()
            await reply.aclose()
        else:
            await asyncio.sleep(random.uniform(0, 2))
        wire.cut()
    return ""


STOPS = {"prompt": "a", "max_tokens": 60, "stop": [f"{'z' * 20}{i}" for i in range(6000)]}
ATTACKS: dict[str, Callable[[Address], Awaitable[str]]] = {
    "20 MB body": _large_body,
    "garbage": _garbage,
    "wrong key": _wrong_key,
    "half-sent request": _half_sent,
    "slow reader": _slow_reader,
    "reads nothing": _no_reader,
    "leaves": _leaves,
    "6,000 stop texts": _refused(COMPLETIONS, STOPS, 400),
    "200,000-character prompt": _refused(COMPLETIONS, {"prompt": "the fox " * 25_000}, 400),
    "prompt beyond the context": _refused(COMPLETIONS, {"prompt": "a b " * 20_000}, 400),
    "lone surrogate": _refused(
        CHAT, json.dumps({"messages": [{"role": "user", "content": "\ud800"}]}).encode(), 400
    ),
    "invalid UTF-8": _refused(COMPLETIONS, b'{"prompt": "\xff"}', 400),
    "deep JSON": _refused(COMPLETIONS, b"[" * 200_000, 400),
    "80,000 wrong values": _refused(COMPLETIONS, b'{"prompt": [' + b"{}," * 80_000 + b"1]}", 400),
}
"""Each returns what went wrong, or nothing."""


async def hostile_client(address: Address, end: float, tally: Tally, seed: int) -> None:
    """Attack until a time on the clock, each time in another way."""
    choose = random.Random(seed)
    while time.monotonic() < end:
        kind = choose.choice(list(ATTACKS))
        began = time.perf_counter()
        try:
            fault = await ATTACKS[kind](address)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault:
            tally.faults[f"{kind}: {fault}"] += 1
        else:
            tally.add(kind, time.perf_counter() - began)
        await asyncio.sleep(choose.uniform(0, 0.5))
