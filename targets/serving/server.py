"""The HTTP server: OpenAI's completions and chat endpoints, `/health`, `/v1/models`, `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .answers import answer
from .door import Door
from .failures import RETRY_AFTER, Rejected, failure_response
from .guide import GuideFailed
from .invalid import refusal
from .keys import Keys
from .requests import ChatRequest, CompletionRequest, chat_request, completion_request
from .schemas import Failure, Health, Model, Models, Reply
from .sequence import QueueFull, Stopped
from .service import Service, unknown_model

__all__ = ["create_app"]

EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {"schema": EVENT}},
        "description": "the answer; a stream of events if `stream` is set",
    },
    400: {"model": Failure, "description": "not a valid request, or a prompt that does not fit"},
    401: {"model": Failure, "description": "the server needs an API key"},
    404: {"model": Failure, "description": "no such model"},
    413: {"model": Failure, "description": "the body is too large"},
    429: {"model": Failure, "description": "too many requests are waiting"},
    503: {"model": Failure, "description": "too many connections, or the server is stopping"},
}


def create_app(service: Service, keys: Keys | None = None) -> FastAPI:
    """The FastAPI application. Shutting it down ends all answers.

    Args:
        service: the loaded artifact.
        keys: who may use the server; default: everybody who reaches it.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="edgewright",
        description=f"Serves {service.name}",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Door, limits=service.limits, keys=keys or Keys(), work=service.work)
    _handle_errors(app)
    _add_status(app, service)

    async def completions(http: Request, request: CompletionRequest) -> Any:
        return await answer(service, http, request)

    async def chat(http: Request, request: ChatRequest) -> Any:
        return await answer(service, http, request)

    # FastAPI reads a parameter's type from the annotations. These types have the limits of this
    # model and this server, so the OpenAPI description has them too.
    limits = service.limits
    completions.__annotations__ |= {
        "http": Request,
        "request": completion_request(service.vocab, service.context, limits),
    }
    chat.__annotations__ |= {"http": Request, "request": chat_request(service.vocab, limits)}
    app.post("/v1/completions", response_model=Reply, responses=RESPONSES)(completions)
    app.post("/v1/chat/completions", response_model=Reply, responses=RESPONSES)(chat)
    _drop_status_422(app)
    return app


def _drop_status_422(app: FastAPI) -> None:
    """Take FastAPI's own status of a wrong field out of the description; here that is a 400."""
    described = app.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)


def _handle_errors(app: FastAPI) -> None:
    """Report every error in OpenAI's format."""

    @app.exception_handler(Rejected)
    async def rejected(_: Request, error: Rejected) -> JSONResponse:
        return error.response

    @app.exception_handler(QueueFull)
    async def full(_: Request, error: QueueFull) -> JSONResponse:
        return failure_response(429, str(error), RETRY_AFTER)

    @app.exception_handler(Stopped)
    async def stopped(_: Request, error: Stopped) -> JSONResponse:
        return failure_response(503, str(error), RETRY_AFTER)

    @app.exception_handler(GuideFailed)
    async def left_its_format(_: Request, error: GuideFailed) -> JSONResponse:
        return failure_response(500, str(error))

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"there is no {request.url.path} here; /openapi.json lists what there is"
        return failure_response(error.status_code, message, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return refusal(error.errors()).response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # Starlette raises the error again, for the log, and then uvicorn closes the connection.
        message = f"the answer failed: {type(error).__name__}"
        return failure_response(500, message, {"Connection": "close"})


def _add_status(app: FastAPI, service: Service) -> None:
    """Add the endpoints that report on the server."""

    @app.get("/health")
    async def health() -> Health:
        return Health(status="ok", running=service.batcher.running, waiting=service.batcher.waiting)

    served = Model(id=service.name, created=service.created)

    @app.get("/v1/models")
    async def models() -> Models:
        return Models(data=[served])

    @app.get("/v1/models/{name:path}", responses={404: RESPONSES[404]})
    async def model(name: str) -> Model:
        if name != service.name:
            raise unknown_model(name, service.name)
        return served

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(generate_latest(service.registry), media_type=CONTENT_TYPE_LATEST)
