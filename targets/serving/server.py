"""The HTTP server: OpenAI's completions and chat endpoints, `/health`, `/v1/models`, `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .answers import CHAT, COMPLETION, answer
from .batcher import QueueFull
from .schemas import (
    ChatRequest,
    CompletionRequest,
    Failure,
    Health,
    Models,
    Reply,
    completion_request,
)
from .service import Rejected, Service

__all__ = ["create_app"]

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "the answer; a stream of events if `stream` is set",
    },
    400: {"model": Failure, "description": "not JSON, or a prompt that does not fit"},
    404: {"model": Failure, "description": "no such model"},
    422: {"model": Failure, "description": "not a valid request"},
    429: {"model": Failure, "description": "too many requests are waiting"},
}


def create_app(service: Service) -> FastAPI:
    """The FastAPI application. Shutting it down stops the batcher."""

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
    _handle_errors(app)
    _add_status(app, service)

    async def completions(request: CompletionRequest) -> Any:
        ids = (
            request.prompt
            if isinstance(request.prompt, list)
            else service.tokenizer.encode(request.prompt)
        )
        return await answer(service, request, list(ids), COMPLETION)

    # FastAPI reads a parameter's type from the annotations. This type has the limits of this
    # model (number of token ids, context), so the OpenAPI description has them too.
    completions.__annotations__["request"] = completion_request(service.vocab, service.context)
    app.post("/v1/completions", response_model=Reply, responses=RESPONSES)(completions)

    @app.post("/v1/chat/completions", response_model=Reply, responses=RESPONSES)
    async def chat(request: ChatRequest) -> Any:
        turns = [message.model_dump() for message in request.messages]
        try:
            text = service.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template belongs to the model and may raise any exception
            raise Rejected(
                400, f"the model's chat template does not accept these messages: {error}"
            ) from error
        ids = list(service.tokenizer.encode(text, add_special_tokens=False))
        return await answer(service, request, ids, CHAT)

    return app


def _handle_errors(app: FastAPI) -> None:
    """Report every error in OpenAI's format."""

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> JSONResponse:
        return _error_response(error.status, str(error))

    @app.exception_handler(QueueFull)
    async def full(_: Request, error: QueueFull) -> JSONResponse:
        return _error_response(429, str(error))

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> JSONResponse:
        return _error_response(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{_place(fault['loc'])}: {fault['msg']}" for fault in error.errors())
        return _error_response(422, faults)


def _place(path: Sequence[Any]) -> str:
    """The path of a field in a request, such as `messages.0.role`."""
    # pydantic also puts types such as `list[int]` into the path; they are left out.
    return ".".join(str(part) for part in path if "[" not in str(part))


def _error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    # The message may quote the request, and lone surrogates in it cannot be encoded.
    text = message.encode("utf-8", "replace").decode()
    body = {"error": {"message": text, "type": "invalid_request_error", "code": status}}
    return JSONResponse(body, status, headers)


def _add_status(app: FastAPI, service: Service) -> None:
    """Add the endpoints that report on the server."""

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
