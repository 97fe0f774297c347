"""One loaded artifact that answers requests: tokenizer, batcher, limits and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ...checkpoints.config import end_tokens, read_architecture
from ...errors import UsageError
from ...export.onnx.runtime import OnnxDecoder
from .batcher import Batcher
from .failures import Rejected
from .options import ServeLimits
from .prompts import Prepared, Prompts
from .requests import ChatRequest, CompletionRequest

__all__ = ["Service", "open_service", "unknown_model"]

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
        prefix_cache_mb: memory for the caches of earlier requests, in MB.
    """

    def __init__(
        self,
        artifact: Path,
        threads: int | None = None,
        max_batch: int = 16,
        context: int | None = None,
        limits: ServeLimits | None = None,
        prefix_cache_mb: int = 256,
    ) -> None:
        model = read_architecture(artifact)
        self.limits = limits or ServeLimits()
        self.name = artifact.resolve().name
        self.vocab = model.vocab_size
        self.context = context or model.max_positions or 2048
        self.eos = frozenset(end_tokens(artifact))
        self.created = int(artifact.stat().st_mtime)
        self.prompts = Prompts(artifact, self.vocab, self.context, self.limits)
        self._workers = ThreadPoolExecutor(WORKERS, "reader")
        decoder = OnnxDecoder(artifact, threads)
        waiting = self.limits.max_waiting
        self.batcher = Batcher(decoder, max_batch, waiting, self.context, prefix_cache_mb * 10**6)
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
            ("prefix_bytes", "memory of kept caches", lambda: self.batcher.prefixes.size),
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

    async def prepared(self, request: CompletionRequest | ChatRequest) -> Prepared:
        """Read a request: its prompts as tokens, and how its answers are made.

        Raises:
            Rejected: the request names another model, or cannot be served; see `Prompts.prepared`.
        """
        if request.model is not None and request.model != self.name:
            raise unknown_model(request.model, self.name)
        return await self.work(self.prompts.prepared, request)


def unknown_model(name: str, served: str) -> Rejected:
    """The refusal of a model that is not served."""
    return Rejected(
        404,
        f"model `{name}` is not served here; `{served}` is",
        param="model",
        code="model_not_found",
    )


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
