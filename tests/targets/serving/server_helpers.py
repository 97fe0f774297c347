"""What tests of the HTTP server share: a server in a thread, and requests over a socket."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgewright.targets.serving.keys import Keys
from edgewright.targets.serving.run import Server, listening
from edgewright.targets.serving.service import Service


def prompts(count: int) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [
        generator.integers(1, 512, int(size)).tolist() for size in generator.integers(1, 40, count)
    ]


@dataclass
class Running:
    """A server that runs in a thread of this process."""

    port: int
    service: Service
    server: Server


@contextmanager
def running(service: Service, keys: Keys | None = None) -> Iterator[Running]:
    """Run a server on a free port."""
    listener = listening("127.0.0.1", 0)
    server = Server(service, keys or Keys())
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Running(listener.getsockname()[1], service, server)
    server.should_exit = True
    thread.join()


@dataclass
class Reply:
    """What a server answered."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> dict[str, Any]:
        """The body."""
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, which has the fields of OpenAI's."""
        found = json.loads(self.text)["error"]
        assert set(found) == {"message", "type", "param", "code"}
        assert found["message"]
        assert self.headers["content-type"] == "application/json"
        return found


def ask(port: int, path: str, body: Any = None, method: str = "POST", **headers: str) -> Reply:
    """Send a request with a connection of its own; `body` is made JSON unless it is a text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    data = body if isinstance(body, str | bytes | None) else json.dumps(body)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, data, {"Content-Type": "application/json", **names})
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    reply = Reply(response.status, response.read().decode(), found)
    connection.close()
    return reply


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not become true"
        time.sleep(0.02)
