"""A server with OpenAI's interface: its address, its model, and the fields that it accepts."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ...console import visible
from ...errors import EdgewrightError, UsageError
from ...redaction import redacted
from .connection import MOST_BODY_BYTES, Body, Client, reason
from .http_reply import BadReply
from .options import LoadOptions
from .timing import NO_CONTENT, Api, RequestTiming

__all__ = ["NO_KEY", "OK", "OPTIONAL", "Address", "Prompt", "Server", "open_server"]

Prompt = str | list[int]
PATHS: dict[Api, str] = {"completions": "/completions", "chat": "/chat/completions"}
OPTIONAL: dict[str, Any] = {
    "stream_options": {"include_usage": True},
    "ignore_eos": True,
    "cache_prompt": False,
    "temperature": 0.0,
}
"""Fields that not every server accepts. `ignore_eos` and `cache_prompt` are those of llama.cpp's
server; vLLM has `ignore_eos` too."""
REFUSED = (400, 422)
"""Statuses of a request with a field that the server does not know."""
NO_KEY = (401, 403)
OK = 200
FEW_TOKENS = 8
START = "start the server, or correct the URL; `--api chat` if it serves chats only"
SLOW = (
    "allow more with --request-seconds, ask for less at a time (--concurrency 1), or restart a "
    "server that hangs"
)


@dataclass(frozen=True)
class Address:
    """Where a server is.

    Attributes:
        url: scheme, host and port.
        prefix: path of the interface, `/v1` for most.
    """

    url: SplitResult
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address in a URL: of a host, of its interface (`/v1`), or of one of its endpoints.

        Raises:
            UsageError: it is no such URL, or it has a password.
        """
        hint = "give it as http://HOST:PORT or http://HOST:PORT/v1"
        try:
            url = urlsplit(text)
            port = url.port
            named = bool(url.hostname) and bool(url.hostname.encode("idna"))
        except ValueError as error:
            raise UsageError(f"{redacted(text)}: not a URL: {error}", hint) from error
        if not named or port == 0 or not text.isascii() or any(c <= " " for c in text):
            raise UsageError(f"{redacted(text)}: not the URL of a server", hint)
        if "@" in url.netloc:
            raise UsageError(
                f"{redacted(text)}: a URL with a user or password ends up in logs",
                "put the server's API key into the environment variable EDGEWRIGHT_API_KEY",
            )
        path = url.path.rstrip("/")
        for ending in reversed(PATHS.values()):
            path = path.removesuffix(ending)
        return cls(url._replace(path="", query="", fragment=""), path or "/v1")

    @property
    def root(self) -> str:
        """Path of what is beside the interface, such as llama.cpp's `/tokenize`."""
        return self.prefix.removesuffix("/v1")

    def __str__(self) -> str:
        return f"{self.url.geturl()}{self.prefix}"


@dataclass
class Server:
    """A server that is measured.

    Attributes:
        address: where it is.
        client: its connections.
        options: of the measurement.
        api: which interface is used.
        model: the model to ask for; empty: the server's own choice.
        accepted: those of `OPTIONAL` that it accepts.
        key: its API key, which no message may have.
    """

    address: Address
    client: Client
    options: LoadOptions
    api: Api = "completions"
    model: str = ""
    accepted: dict[str, Any] = field(default_factory=dict)
    key: str = ""

    def body(self, prompt: Prompt, output_tokens: int) -> dict[str, Any]:
        """A request, without the fields that are not accepted everywhere."""
        if self.api == "chat":
            asked = {"messages": [{"role": "user", "content": prompt}]}
            return self.request(asked, output_tokens)
        return self.request({"prompt": prompt}, output_tokens)

    def request(self, asked: dict[str, Any], output_tokens: int) -> dict[str, Any]:
        """What every request has, and what one asks."""
        model = {"model": self.model} if self.model else {}
        return {"max_tokens": output_tokens, **model, **asked}

    @property
    def context(self) -> dict[str, Any]:
        """What must be equal before results of two servers are compared."""
        return {
            "backend": "endpoint",
            "endpoint": {"host": self.address.url.hostname, "api": self.api},
            "served_model": self.shown(self.model),
        }

    @property
    def _path(self) -> str:
        return self.address.prefix + PATHS[self.api]

    async def timed(self, prompt: Prompt, left: float) -> RequestTiming:
        """Send a request of the measurement.

        Args:
            prompt: of the request.
            left: seconds that the measurement may still take; then the request fails.
        """
        sent = self.client.clock()
        limit = self.options.request_seconds
        body = self.body(prompt, self.options.output_tokens) | self.accepted
        try:
            async with asyncio.timeout(min(limit, left)):
                return await self._stream(body)
        except TimeoutError:
            cut = f"still running when --time-limit {self.options.time_limit:g} s was over"
            slow = f"no complete answer within {limit:g} s"
            return RequestTiming(sent=sent, error=slow if limit < left else cut)

    async def accepts(self, prompt: Prompt) -> bool:
        """Whether the server answers a request with this prompt."""
        return (await self._whole(prompt)).status == OK

    async def prompt_tokens(self, prompt: Prompt) -> int | None:
        """The tokens of a prompt by the server's own count; None if it does not say."""
        reply = await self._whole(prompt)
        usage = reply.value.get("usage") if isinstance(reply.value, dict) else None
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return count if reply.status == OK and type(count) is int and count > 0 else None

    async def _whole(self, prompt: Prompt) -> Body:
        """The answer to a prompt as one document, of one token."""
        return await self.fetch("POST", self._path, self.body(prompt, 1))

    async def post(self, body: dict[str, Any], most: int) -> Body:
        """The reply to a request, of so many bytes at most; see `fetch`."""
        return await self.fetch("POST", self._path, body, most)

    async def fetch(
        self, method: str, path: str, body: Any = None, most: int = MOST_BODY_BYTES
    ) -> Body:
        """Ask for one document.

        Raises:
            EdgewrightError: there is no answer.
        """
        limit = self.options.request_seconds
        try:
            async with asyncio.timeout(limit):
                return await self.client.fetch(method, path, body, most)
        except TimeoutError as error:
            raise self.failed(f"no answer within {limit:g} s", SLOW) from error
        except (BadReply, OSError) as error:
            raise self.failed(reason(error)) from error

    async def _stream(self, body: dict[str, Any]) -> RequestTiming:
        body = body | {"stream": True}
        found = await self.client.stream(self._path, body, self.options.output_tokens)
        found.error = self.shown(found.error)
        return found

    def shown(self, text: str) -> str:
        """What a server said, without its key and without characters that a terminal obeys."""
        text = text.replace(self.key, "***") if self.key else text
        return visible(redacted(text))

    def needs_key(self, reply: Body) -> EdgewrightError:
        """The error of a request without the server's key."""
        return EdgewrightError(
            f"{self.address}: {self.shown(reply.failure)}",
            f"put its API key into the environment variable {self.options.api_key_variable}",
        )

    def failed(self, why: str, hint: str = START) -> EdgewrightError:
        """The error of a request that was not answered."""
        return EdgewrightError(f"{self.address}: {self.shown(why)}", hint)

    async def find_model(self) -> None:
        """Find out which model to ask for.

        Raises:
            EdgewrightError: the server cannot be reached, or wants another key.
        """
        reply = await self.fetch("GET", f"{self.address.prefix}/models")
        if reply.status in NO_KEY:
            raise self.needs_key(reply)
        if self.options.served_model:
            self.model = self.options.served_model
            return
        models = reply.value.get("data") if isinstance(reply.value, dict) else None
        first = models[0] if isinstance(models, list) and models else None
        name = first.get("id") if isinstance(first, dict) else None
        self.model = name if isinstance(name, str) else ""

    async def find_accepted(self, prompt: Prompt) -> None:
        """Find out which optional fields the server accepts.

        Raises:
            EdgewrightError: it does not answer a plain request with a stream.
        """
        found = await self._try(prompt, OPTIONAL)
        if found.status in REFUSED:
            self.accepted = {}
            for name, value in OPTIONAL.items():
                one = await self._try(prompt, {name: value})
                if one.status == OK:
                    self.accepted[name] = value
            found = await self._try(prompt, self.accepted)
        else:
            self.accepted = dict(OPTIONAL)
        if found.error and found.error != NO_CONTENT:
            raise self.failed(found.error)

    async def _try(self, prompt: Prompt, fields: dict[str, Any]) -> RequestTiming:
        few = min(FEW_TOKENS, self.options.output_tokens)
        limit = self.options.request_seconds
        try:
            async with asyncio.timeout(limit):
                return await self._stream(self.body(prompt, few) | fields)
        except TimeoutError as error:
            raise self.failed(f"no complete answer within {limit:g} s") from error


def open_server(url: str, options: LoadOptions, api: Api = "completions") -> Server:
    """A server, which is not asked anything yet.

    Args:
        url: where it is.
        options: how it is asked.
        api: which interface is used, unless the options say.

    Raises:
        UsageError: the URL or the API key cannot be used.
    """
    address = Address.parse(url)
    key = os.environ.get(options.api_key_variable, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UsageError(
            f"{options.api_key_variable}: a key with such characters cannot be sent",
            "set it to the key alone, without line breaks",
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return Server(address, Client(address.url, headers), options, options.api or api, key=key)
