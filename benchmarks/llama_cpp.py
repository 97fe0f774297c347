"""A GGUF artifact in llama.cpp's own server on this machine: found, started and asked."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from ..errors import EdgewrightError, UsageError
from ..export.gguf.completion import PATH, Completion, read_completion
from ..export.gguf.server import ALL_LAYERS, LLAMA_SERVER, LlamaServer, ServerSettings
from ..models import FORMATS
from ..models.export_format import Runtime
from ..models.formats.gguf import MODEL
from .endpoint.connection import Client, reason
from .endpoint.http_reply import BadReply

__all__ = ["NAME", "LocalLlama", "Slots", "can_measure", "llama_server_here"]

T = TypeVar("T")
NAME: Runtime = "llama.cpp"
PADDING = 256
"""Tokens by which llama.cpp counts the memory of a KV cache."""
MOST_ANSWER_BYTES = 1 << 26
FAILURE_SECONDS = 2.0
OK = 200


def llama_server_here(given: str = "") -> str:
    """The path of llama-server on this machine.

    Args:
        given: its path; empty: it is searched on PATH.

    Raises:
        UsageError: there is none.
    """
    if found := shutil.which(given or LLAMA_SERVER):
        return found
    raise UsageError(
        f"{given}: no such program"
        if given
        else f"{LLAMA_SERVER} is not on PATH, and a GGUF artifact is measured with it",
        "install llama.cpp (https://github.com/ggml-org/llama.cpp), or name the program with "
        "--llama-server PATH (in a recipe: evaluate.llama_server)",
    )


def can_measure(format: str) -> bool:
    """Whether `bench` can run artifacts of a format on this machine, as it is."""
    runtime = FORMATS[format].measured_by
    return shutil.which(LLAMA_SERVER) is not None if runtime == NAME else runtime is not None


@dataclass(frozen=True)
class Slots:
    """Places for requests in a server.

    Attributes:
        count: requests at the same time.
        tokens: of the longest prompt with its answer.
    """

    count: int
    tokens: int


class LocalLlama:
    """llama-server with an artifact loaded; leaving the block stops it.

    Args:
        artifact: directory with the GGUF file.
        program: path of llama-server.
        slots: its places.
        device: `cpu`, or a GPU, which then computes all layers if the program can use it.
        threads: of the processor.

    Attributes:
        load_s: seconds until it was ready.
        loaded_bytes: its resident memory then, if the system says.
    """

    def __init__(
        self, artifact: Path, program: str, slots: Slots, device: str, threads: int
    ) -> None:
        context = -(-(slots.tokens + 1) // PADDING) * PADDING
        layers = 0 if device == "cpu" else ALL_LAYERS
        settings = ServerSettings(program, threads, context, slots.count, layers)
        self._key = secrets.token_urlsafe(32)
        self._server = LlamaServer(settings, artifact / MODEL, self._key)
        self.load_s = 0.0
        self.loaded_bytes: int | None = None

    def __enter__(self) -> Self:
        self._server.__enter__()
        begin = time.perf_counter()
        try:
            self._server.wait_until_ready()
        except BaseException:
            self._server.__exit__()
            raise
        self.load_s = time.perf_counter() - begin
        self.loaded_bytes = self.peak_rss()
        base = urlsplit(f"http://127.0.0.1:{self._server.port}")
        self._client = Client(base, {"Authorization": f"Bearer {self._key}"})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.__exit__()

    def peak_rss(self) -> int | None:
        """The peak of its resident memory in bytes; None if the system does not say."""
        return self._server.peak_rss()

    def run(self, work: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """Run coroutines that `ask`, all at the same time; the first error ends them all."""

        async def everything() -> list[T]:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one()) for one in work]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            finally:
                self._client.close()
            return [task.result() for task in tasks]

        return asyncio.run(everything())

    async def ask(self, body: dict[str, Any]) -> Completion:
        """Ask for a completion.

        Raises:
            EdgewrightError: the server refused, ended, or sent something else.
        """
        try:
            reply = await self._client.fetch("POST", PATH, body, MOST_ANSWER_BYTES)
        except (BadReply, OSError) as error:
            self._server.check(FAILURE_SECONDS)  # if it is ending, its own log says why
            raise self._failed(reason(error)) from error
        if reply.status != OK or not isinstance(reply.value, dict):
            raise self._failed(reply.failure)
        return read_completion(reply.value)

    def _failed(self, what: str) -> EdgewrightError:
        return EdgewrightError(
            f"{LLAMA_SERVER}: {what}", "try the file by hand: llama-server -m model.gguf"
        )
