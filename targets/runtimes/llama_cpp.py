"""llama.cpp on the device: its `llama-server`, found there or named by the user.

The server listens on the device's loopback, with a random key, and is asked for token ids by its
own `/completion` through the SSH connection. So its tokenizer is not involved, and answers are
compared token by token.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ...errors import EdgewrightError
from ...export.gguf.completion import GREEDY, PATH, completion_body, older, read_completion
from ...models.export_format import Runtime
from ..line_program import LineProgram, line_program
from ..preflight import Problem
from ..remote import Device
from .interface import Ask, Reply, RunSettings, Scored, Stop
from .loopback_http import LoopbackServer

__all__ = ["LlamaCpp"]

START_SECONDS = 1200.0
REQUEST_SECONDS = 1800.0
MEMORY_SECONDS = 60.0
FAILURE_SECONDS = 5.0
CERTAIN = 1e4
"""A bias that makes a token certain."""


class LlamaCpp:
    """llama.cpp's server.

    Args:
        settings: how it is started.
        plain_token: a token that is a whole letter. The server gives no log-probabilities where it
            generates a part of one; made to generate this token, it gives them everywhere.
    """

    name: Runtime = "llama.cpp"

    def __init__(self, settings: RunSettings, plain_token: int) -> None:
        self._settings = settings
        self._plain_token = plain_token

    def problems(self, report: Mapping[str, Any]) -> list[Problem]:
        """See `DeviceRuntime.problems`."""
        if self._settings.llama_server or report.get("llama_server"):
            return []
        return [
            Problem(
                "llama-server is not on PATH of the device, nor where llama.cpp is usually built",
                "build llama.cpp there (cmake -B build -DGGML_CUDA=ON && cmake --build build -t "
                "llama-server), or name the program with --llama-server PATH",
            )
        ]

    @asynccontextmanager
    async def started(self, device: Device, folder: str) -> AsyncGenerator[LlamaSession]:
        """See `DeviceRuntime.started`."""
        words = ["llama-server", "--context", str(self._settings.context)]
        if self._settings.llama_server:
            words += ["--program", self._settings.llama_server]
        command = self._settings.run_words(folder, *words)
        key = secrets.token_urlsafe(32)
        async with line_program(device, command, "run.sh llama-server") as program:
            program.send({"key": key})
            ready = (await program.receive(START_SECONDS))["ready"]
            server = LoopbackServer(device, int(ready["port"]), key, "llama-server")
            yield LlamaSession(program, server, ready, self._plain_token)


class LlamaSession:
    """See `Session`.

    Args:
        program: the program that keeps the server.
        server: the way to it.
        ready: the program's first message.
        plain_token: see `LlamaCpp`.
    """

    provider = "llama.cpp"

    def __init__(
        self,
        program: LineProgram,
        server: LoopbackServer,
        ready: Mapping[str, Any],
        plain_token: int,
    ) -> None:
        self._program = program
        self._server = server
        self._plain_token = plain_token
        self.load_s = float(ready["load_s"])
        self.details: dict[str, Any] = {"version": ready["version"]}

    async def answer(self, ask: Ask, complete: Stop | None = None) -> Reply:
        """See `Session.answer`. The server gives the time of all later tokens together."""
        body = completion_body(ask.ids, ask.new_tokens, ends=bool(ask.ends))
        found = read_completion(await self._ask(body))
        tokens = _until_complete(found.tokens, ask.ends, complete)
        later = (found.token_s,) * (len(tokens) - 1)
        return Reply(tuple(tokens), found.first_s, later, None, await self._peak_rss())

    async def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the server; if it has ended, the error is that of its own log."""
        try:
            return await self._server.ask(PATH, body, REQUEST_SECONDS)
        except EdgewrightError as error:
            ended = await self._program.failure(FAILURE_SECONDS)
            raise ended or error from error

    async def _peak_rss(self) -> int | None:
        self._program.send({"memory": True})
        return (await self._program.receive(MEMORY_SECONDS))["peak_rss_bytes"]

    async def score(
        self, ids: Sequence[int], continuation: Sequence[int], top: int
    ) -> Scored | None:
        """See `Session.score`. The server keeps the cache from one position to the next."""
        found: dict[str, list[Any]] = {"ids": [], "logprobs": []}
        for position in range(len(continuation)):
            body = {
                "prompt": [*ids, *continuation[:position]],
                "n_predict": 1,
                "n_probs": top,
                "cache_prompt": True,
                "logit_bias": [[self._plain_token, CERTAIN]],
                **GREEDY,
            }
            answer = await self._ask(body)
            try:
                (step,) = answer["completion_probabilities"]
                found["ids"].append([int(one["id"]) for one in step["top_logprobs"]])
                found["logprobs"].append([float(one["logprob"]) for one in step["top_logprobs"]])
            except (KeyError, TypeError, ValueError) as error:
                raise older(answer) from error
        return Scored(found["ids"], found["logprobs"])


def _until_complete(
    tokens: Sequence[int], ends: Sequence[int], complete: Stop | None
) -> Sequence[int]:
    """The tokens up to the one that completes the answer."""
    for count in range(1, len(tokens) + 1):
        if tokens[count - 1] in ends or (complete is not None and complete(tokens[:count])):
            return tokens[:count]
    return tokens
