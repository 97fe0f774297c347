"""One loaded artifact that answers requests: tokenizer, batcher, limits and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ...checkpoints.config import end_tokens, read_architecture
from ...checkpoints.loading import load_tokenizer
from ...errors import UsageError
from ...export.onnx.runtime import OnnxDecoder
from ...export.onnx.sampling import Sampling
from .batcher import Batcher, Generation
from .schemas import ChatRequest, CompletionRequest

__all__ = ["Rejected", "Service", "open_service"]


class Rejected(Exception):
    """A request that cannot be served, with the HTTP status to send."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """One loaded artifact that answers requests.

    Args:
        artifact: directory of an ONNX artifact.
        threads: threads of ONNX Runtime; None lets it choose.
        max_batch: the most sequences that are generated at the same time.
        max_waiting: the most requests that wait for a free place.
        context: the most tokens of prompt and answer together; None for the model's own limit.
    """

    def __init__(
        self,
        artifact: Path,
        threads: int | None = None,
        max_batch: int = 16,
        max_waiting: int = 256,
        context: int | None = None,
    ) -> None:
        model = read_architecture(artifact)
        self.name = artifact.resolve().name
        self.vocab = model.vocab_size
        self.context = context or model.max_positions or 2048
        self.eos = frozenset(end_tokens(artifact))
        self.tokenizer: Any = load_tokenizer(artifact)
        self.batcher = Batcher(OnnxDecoder(artifact, threads), max_batch, max_waiting)
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
        ):
            Gauge(f"edgewright_{name}", about, registry=self.registry).set_function(read)

    def check(self, model: str | None, ids: list[int]) -> None:
        """Check that a request can be served.

        Args:
            model: the model that the request names, if any.
            ids: tokens of the prompt.

        Raises:
            Rejected: it names another model, or the prompt is empty or leaves no room in the
                context for an answer.
        """
        if model is not None and model != self.name:
            raise Rejected(404, f"model `{model}` is not served here; `{self.name}` is")
        if not ids:
            raise Rejected(400, "the prompt has no tokens")
        if len(ids) >= self.context:
            raise Rejected(
                400, f"the prompt has {len(ids)} tokens, and the context is {self.context}"
            )

    async def tokens(
        self, ids: list[int], request: CompletionRequest | ChatRequest
    ) -> AsyncGenerator[int | str]:
        """Yield the tokens of an answer as they are generated, and last the reason why it ended.

        Closing this generator cancels the answer.
        """
        loop = asyncio.get_running_loop()
        arrived = asyncio.Queue[int | str | BaseException]()
        begin = time.perf_counter()

        def take(item: int | str | BaseException) -> None:
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
            generation.cancelled.set()
            self.requests.labels(outcome).inc()

    def decode(self, ids: list[int]) -> str:
        """Convert token ids to text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


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
