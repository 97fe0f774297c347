"""Bodies of requests, through the ASGI application of the server as a client reaches it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ...checkpoints.config import BUILTIN_MODEL, model_path
from ...errors import UsageError
from ...export.onnx.export import export_onnx
from ...targets.serving.server import create_app
from ...targets.serving.service import Service
from .changes import changed_text

__all__ = ["http_readers"]

PATHS = (b"/v1/completions", b"/v1/chat/completions")
BODIES: list[Any] = [
    {"prompt": "2+2", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": ["\n"]},
    {"prompt": [1, 2, 3], "max_tokens": 2, "stream": True},
    {"messages": [{"role": "user", "content": "2+2"}], "max_tokens": 2, "model": "artifact"},
]
CONTEXT = 32


class _Server:
    """A server in this process, made when it is first asked."""

    def __init__(self, work: Path) -> None:
        self.artifact = work / "artifact"
        self.app: Any = None
        self.loop = asyncio.new_event_loop()

    def prepare(self) -> None:
        """Export the built-in model, and load it."""
        if self.app is None:
            export_onnx(Path(model_path(BUILTIN_MODEL)), self.artifact, "fp32")
            self.app = create_app(Service(self.artifact, 1, max_batch=2, context=CONTEXT))

    def ask(self, folder: Path) -> None:
        """Send the body of a case.

        Raises:
            AssertionError: the answer is a fault of the server, or none.
            UsageError: the body was refused.
        """
        path = (folder / "path").read_bytes().decode()
        answer = self._answer(path, (folder / "body").read_bytes())
        status = self.loop.run_until_complete(answer)
        assert status is not None and status < 500, f"{path}: status {status}"
        if status >= 400:
            raise UsageError(f"{path}: status {status}")

    async def _answer(self, path: str, body: bytes) -> int | None:
        statuses: list[int] = []
        bodies = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if bodies:
                return bodies.pop()
            await asyncio.sleep(3600)  # the client stays, and says nothing more
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        length = str(len(body)).encode()
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", length)],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
        }
        await self.app(scope, receive, send)
        return statuses[0] if statuses else None


def http_readers(work: Path) -> list[tuple[Any, ...]]:
    """The arguments of `FileReader` for each kind."""
    server = _Server(work)
    cases = st.tuples(st.sampled_from(PATHS), changed_text(BODIES)).map(
        lambda case: {"path": case[0], "body": case[1]}
    )
    return [("HTTP bodies", cases, server.ask, 10, server.prepare)]
