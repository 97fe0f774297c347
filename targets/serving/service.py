"""One loaded artifact that answers requests: tokenizer, batcher, limits and metrics."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ...checkpoints.config import end_tokens, read_architecture
from ...checkpoints.loading import load_tokenizer
from ...errors import UsageError
from ...export.onnx.runtime import OnnxDecoder
from ...export.onnx.sampling import Sampling
from .batcher import Batcher, Generation
from .failures import Rejected
from .options import ServeLimits
from .schemas import ChatRequest, CompletionRequest

__all__ = ["Service", "open_service"]

WORKERS = 2
"""Threads that read requests: JSON, chat templates, tokenizing. More would slow down the batch."""


class Service:
    """One loaded artifact that answers requests.

    Args:
        artifact: directory of an ONNX artifact.
        threads: threads of ONNX Runtime; None lets it choose.
        max_batch: the most sequences that are generated at the same time.
        context: the most tokens of prompt and answer together; None for the model's own limit.
        limits: what one request may ask for, and how many may wait.
    """

    def __init__(
        self,
        artifact: Path,
        threads: int | None = None,
        max_batch: int = 16,
        context: int | None = None,
        limits: ServeLimits | None = None,
    ) -> None:
        model = read_architecture(artifact)
        self.limits = limits or ServeLimits()
        self.name = artifact.resolve().name
        self.vocab = model.vocab_size
        self.context = context or model.max_positions or 2048
        self.eos = frozenset(end_tokens(artifact))
        self._tokenizer: Any = load_tokenizer(artifact)
        self._workers = ThreadPoolExecutor(WORKERS, "reader")
        decoder = OnnxDecoder(artifact, threads)
        self.batcher = Batcher(decoder, max_batch, self.limits.max_waiting, self.context)
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "edgewright_requests", "requests by outcome", ["outcome"], registry=self.registry
        )
        self.first = Histogram(
            "edgewright_first_token_seconds", "time to the first token", registry=self.registry
        )
        self._add_gauges()

    def _add_gauges(self) -> None:
        for name, about, read in (
            ("running", "sequences being generated", lambda: self.batcher.running),
            ("waiting", "sequences waiting for a place", lambda: self.batcher.waiting),
            ("generated_tokens", "tokens generated since the start", lambda: self.batcher.tokens),
            ("decoding_steps", "decoding steps since the start", lambda: self.batcher.steps),
            ("prompt_tokens", "tokens of prompts", lambda: self.batcher.work.prompt_tokens),
            ("later_tokens", "tokens but the first", lambda: self.batcher.work.later_tokens),
            ("later_seconds", "time of those", lambda: self.batcher.work.later_seconds),
        ):
            Gauge(f"edgewright_{name}", about, registry=self.registry).set_function(read)

    async def work(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function in a thread that reads requests, so that it delays no other request."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function, *arguments)

    def close(self) -> None:
        """End all answers, and stop the threads."""
        self.batcher.close()
        self._workers.shutdown(cancel_futures=True)

    async def prompt_ids(self, request: CompletionRequest | ChatRequest) -> list[int]:
        """The tokens of a request's prompt.

        Raises:
            Rejected: the request names another model; the prompt is too long or empty, or leaves no
                room in the context for an answer; the chat template does not accept it.
        """
        if request.model is not None and request.model != self.name:
            raise Rejected(404, f"model `{request.model}` is not served here; `{self.name}` is")
        ids: list[int] = await self.work(self._encode, request)
        if not ids:
            raise Rejected(400, "the prompt has no tokens")
        if len(ids) >= self.context:
            raise Rejected(
                400, f"the prompt has {len(ids)} tokens, and the context is {self.context}"
            )
        return ids

    def _encode(self, request: CompletionRequest | ChatRequest) -> Sequence[int]:
        if isinstance(request, CompletionRequest):
            prompt = request.prompt
            return prompt if isinstance(prompt, list) else self._ids(prompt)
        turns = [message.model_dump() for message in request.messages]
        if sum(len(turn["content"]) for turn in turns) > self.limits.max_prompt_characters:
            raise Rejected(
                400,
                f"the messages have more than {self.limits.max_prompt_characters} characters",
            )
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template belongs to the model and may raise any exception
            raise Rejected(
                400, f"the model's chat template does not accept these messages: {error}"
            ) from error
        return self._ids(text, add_special_tokens=False)

    def _ids(self, text: str, **options: Any) -> list[int]:
        # Without `verbose=False` a prompt beyond the context is a line on standard error.
        return list(self._tokenizer.encode(text, verbose=False, **options))

    async def tokens(
        self, ids: list[int], request: CompletionRequest | ChatRequest
    ) -> AsyncGenerator[int | str]:
        """Yield the tokens of an answer as they are generated, and last the reason why it ended.

        Closing this generator cancels the answer. A reader that is slow does not delay the
        batch: what was generated waits here, and that is at most `max_new_tokens` numbers.

        Raises:
            QueueFull: too many requests are waiting.
        """
        loop = asyncio.get_running_loop()
        arrived = asyncio.Queue[int | str | BaseException]()
        begin = time.perf_counter()

        def take(item: int | str | BaseException) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody reads any more
                loop.call_soon_threadsafe(arrived.put_nowait, item)

        generation = Generation(
            ids,
            min(request.max_tokens, self.context - len(ids)),
            self.eos,
            Sampling(request.temperature, request.top_p, request.seed),
            take,
        )
        self.batcher.submit(generation)
        outcome = "cancelled"
        first = True
        try:
            while True:
                item = await arrived.get()
                if isinstance(item, BaseException):
                    outcome = "failed"
                    raise item
                if first:
                    self.first.observe(time.perf_counter() - begin)
                    first = False
                if isinstance(item, str):
                    outcome = item
                yield item
                if isinstance(item, str):
                    return
        finally:
            self.batcher.cancel(generation)
            self.requests.labels(outcome).inc()

    def decode(self, ids: list[int]) -> str:
        """Convert token ids to text."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


def open_service(artifact: Path, **options: Any) -> Service:
    """Load an artifact for serving. The options are those of `Service`.

    Raises:
        UsageError: the directory is not an ONNX artifact.
    """
    if not (artifact / "model.onnx").is_file():
        raise UsageError(
            f"{artifact}: not an ONNX artifact",
            "make one with: edgewright export MODEL --format onnx --precision int4 --out DIR",
        )
    return Service(artifact, **options)
