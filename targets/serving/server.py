"""An OpenAI-style HTTP server over one artifact: completions and chat, streamed or whole, `/health`, `/v1/models` and `/metrics`."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException

from ...checkpoints.config import end_tokens, read_architecture
from ...checkpoints.loading import load_tokenizer
from ...errors import UsageError
from ...export.onnx.runtime import OnnxDecoder
from ...export.onnx.sampling import Sampling
from .batcher import Batcher, Full, Generation
from .schemas import (
    ChatRequest,
    CompletionRequest,
    Failure,
    Health,
    Models,
    Reply,
    completion_request,
)
from .text import TextStream

__all__ = ["Service", "create_app"]

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "the answer, as events where `stream` is set",
    },
    400: {"model": Failure, "description": "not JSON, or a prompt that does not fit"},
    404: {"model": Failure, "description": "no such model"},
    422: {"model": Failure, "description": "not a valid request"},
    429: {"model": Failure, "description": "too many requests are waiting"},
}


class Rejected(Exception):
    """A request that is not served, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class _Style:
    """How the two endpoints differ in what they send."""

    whole: str
    part: str

    def choice(self, text: str, reason: str | None, *, streamed: bool) -> dict[str, Any]:
        if self.whole == "text_completion":
            body: dict[str, Any] = {"text": text}
        else:
            body = {"delta" if streamed else "message": {"role": "assistant", "content": text}}
        return {"index": 0, **body, "finish_reason": reason}


COMPLETION, CHAT = (
    _Style("text_completion", "text_completion"),
    _Style("chat.completion", "chat.completion.chunk"),
)


class Service:
    """One artifact ready to serve.

    Args:
        artifact: directory of an ONNX artifact.
        threads: of ONNX Runtime; its choice where None.
        max_batch: most sequences at a time.
        max_waiting: most requests that wait.
        context: most tokens of prompt and answer; the model's own limit where None.
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
        for name, about, read in (
            ("running", "sequences being generated", lambda: self.batcher.running),
            ("waiting", "sequences waiting for a place", lambda: self.batcher.waiting),
            ("generated_tokens", "tokens generated since the start", lambda: self.batcher.tokens),
            ("decoding_steps", "decoding steps since the start", lambda: self.batcher.steps),
        ):
            Gauge(f"edgewright_{name}", about, registry=self.registry).set_function(read)

    def check(self, model: str | None, ids: list[int]) -> None:
        """Accept a request.

        Raises:
            Rejected: another model, or a prompt that is empty or leaves no room for an answer.
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
        """The tokens of an answer as they are made, and at last why it ended. Leaving the generator cancels it."""
        loop, arrived, begin = (
            asyncio.get_running_loop(),
            asyncio.Queue[int | str | BaseException](),
            time.perf_counter(),
        )

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
        outcome, first = "cancelled", True
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
        """Token ids to text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def create_app(service: Service) -> FastAPI:
    """The application; its lifespan ends the batcher."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    app = FastAPI(
        title="edgewright",
        description=f"Serves {service.name}",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    _errors(app)
    _status(app, service)

    async def completions(request: CompletionRequest) -> Any:
        ids = (
            request.prompt
            if isinstance(request.prompt, list)
            else service.tokenizer.encode(request.prompt)
        )
        return await _answer(service, request, list(ids), COMPLETION)

    # The limits of this model, in the description as well; FastAPI finds a parameter's type here.
    completions.__annotations__["request"] = completion_request(service.vocab, service.context)
    app.post("/v1/completions", response_model=Reply, responses=RESPONSES)(completions)

    @app.post("/v1/chat/completions", response_model=Reply, responses=RESPONSES)
    async def chat(request: ChatRequest) -> Any:
        turns = [message.model_dump() for message in request.messages]
        try:
            text = service.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except (
            Exception
        ) as error:  # templates are programs of the model's authors and raise what they like
            raise Rejected(
                400, f"the model's chat template does not take these messages: {error}"
            ) from error
        return await _answer(
            service, request, list(service.tokenizer.encode(text, add_special_tokens=False)), CHAT
        )

    return app


def _errors(app: FastAPI) -> None:
    """Every failure in the shape of OpenAI's."""

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> JSONResponse:
        return _failure(error.status, str(error))

    @app.exception_handler(Full)
    async def full(_: Request, error: Full) -> JSONResponse:
        return _failure(429, str(error))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> JSONResponse:
        return _failure(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        return _failure(422, faults)


def _place(path: Sequence[Any]) -> str:
    return ".".join(
        str(part) for part in path if "[" not in str(part)
    )  # pydantic names types there, too


def _failure(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # Broken surrogates of a request would not encode.
    told = message.encode("utf-8", "replace").decode()
    return JSONResponse(
        {"error": {"message": told, "type": "invalid_request_error", "code": status}},
        status,
        headers,
    )


def _status(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Health:
        return Health(status="ok", running=service.batcher.running, waiting=service.batcher.waiting)

    @app.get("/v1/models")
    async def models() -> Models:
        return Models(data=[{"id": service.name, "object": "model", "owned_by": "edgewright"}])

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)


async def _answer(
    service: Service, request: CompletionRequest | ChatRequest, ids: list[int], style: _Style
) -> Any:
    service.check(request.model, ids)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    about = {"id": f"cmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": service.name}
    pieces = _pieces(service, request, ids, stops)
    first = await anext(pieces)  # so that a full queue is a status, and not a broken stream
    if request.stream:
        return StreamingResponse(
            _events(first, pieces, about, style), media_type="text/event-stream"
        )
    text, reason, count = "", None, 0
    while True:
        text, reason, count = text + first[0], first[1], first[2]
        if reason:
            break
        first = await anext(pieces)
    usage = {
        "prompt_tokens": len(ids),
        "completion_tokens": count,
        "total_tokens": len(ids) + count,
    }
    return {
        **about,
        "object": style.whole,
        "choices": [style.choice(text, reason, streamed=False)],
        "usage": usage,
    }


Piece = tuple[str, str | None, int]
"""A piece of text, why the answer ended if it did, and the tokens so far."""


async def _pieces(
    service: Service, request: CompletionRequest | ChatRequest, ids: list[int], stops: list[str]
) -> AsyncGenerator[Piece]:
    stream, count = TextStream(service.decode, stops), 0
    tokens = service.tokens(ids, request)
    try:
        async for item in tokens:
            if isinstance(item, str):
                yield stream.finish(), item, count
                return
            count += 1
            piece = stream.add(item)
            if stream.stopped:
                yield piece, "stop", count
                return
            yield piece, None, count
    finally:
        await tokens.aclose()


async def _events(
    first: Piece, pieces: AsyncGenerator[Piece], about: dict[str, Any], style: _Style
) -> AsyncIterator[str]:
    try:
        piece: Piece | None = first
        while piece is not None:
            text, reason, _ = piece
            if text or reason:
                choice = style.choice(text, reason, streamed=True)
                yield f"data: {json.dumps({**about, 'object': style.part, 'choices': [choice]})}\n\n"
            piece = await anext(pieces, None)
        yield "data: [DONE]\n\n"
    finally:
        await pieces.aclose()


def open_service(artifact: Path, **options: Any) -> Service:
    """A service, if there is an artifact.

    Raises:
        UsageError: there is none.
    """
    if not (artifact / "model.onnx").is_file():
        raise UsageError(
            f"{artifact}: no artifact",
            "make one: edgewright export MODEL --format onnx --precision int4 --out DIR",
        )
    return Service(artifact, **options)
