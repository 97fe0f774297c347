"""A server writes the answers to tasks: several at the same time, with a limit on repetitions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from ...console import progress
from ...errors import EdgewrightError
from ..tasks.writers import TaskPrompt, Written, thinks, tokens_of
from .connection import Body
from .server import NO_KEY, OK, Server

__all__ = ["ServerWriter"]

DEFAULT_CONCURRENCY = 4
AGAIN = (408, 409, 429)
"""Statuses after which the same request may succeed; so may it after every status from 500 on."""
LONGEST_PAUSE = 60.0
FIRST_PAUSE = 0.5
REFUSED = "look at the server's log; --max-new-tokens, --api or --retries may have to change"
CUT_OFF = "length"
"""The `finish_reason` of an answer that reached the most tokens."""
BYTES_A_TOKEN = 1 << 10
"""Of a whole answer; tokens have few bytes, and JSON escapes them."""


@dataclass(frozen=True)
class ServerWriter:
    """A server with OpenAI's interface, asked in chats or, with `--api completions`, by texts.

    Attributes:
        server: the server, whose model is known.
        tokenizer: that of the served model, for completions whose prompts are made here; None:
            they are plain texts.
    """

    server: Server
    tokenizer: Any | None = None

    @property
    def chats(self) -> bool:
        """See `Writer.chats`."""
        if self.server.api == "chat":
            return True
        return self.tokenizer is not None and bool(self.tokenizer.chat_template)

    @property
    def opens(self) -> bool:
        """See `Writer.opens`."""
        return self.chats and self.server.api == "completions" and not thinks(self.tokenizer)

    def write(
        self, prompts: Sequence[TaskPrompt], max_new_tokens: int, stops: Sequence[str] = ()
    ) -> list[Written]:
        """See `Writer.write`.

        Raises:
            EdgewrightError: the server refuses a request, or does not answer it often enough.
        """
        fields: dict[str, Any] = {"temperature": 0.0}
        if stops:
            fields["stop"] = list(stops)
        bodies = [self._body(prompt, max_new_tokens) | fields for prompt in prompts]
        most = (1 << 20) + BYTES_A_TOKEN * max_new_tokens
        return asyncio.run(self._all(bodies, most))

    def _body(self, prompt: TaskPrompt, max_new_tokens: int) -> dict[str, Any]:
        if self.server.api == "chat":
            return self.server.request({"messages": list(prompt.turns)}, max_new_tokens)
        asked = prompt.text if self.tokenizer is None else tokens_of(self.tokenizer, prompt)
        return self.server.request({"prompt": asked}, max_new_tokens)

    async def _all(self, bodies: Sequence[dict[str, Any]], most: int) -> list[Written]:
        options = self.server.options
        places = asyncio.Semaphore(max(options.concurrency, default=DEFAULT_CONCURRENCY))
        with progress("solving problems", len(bodies)) as bar:

            async def one(body: dict[str, Any]) -> Written:
                async with places:
                    answer = await self._answer(body, most)
                bar.advance()
                return answer

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(one(body)) for body in bodies]
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None
            finally:
                self.server.client.close()
        return [task.result() for task in tasks]

    async def _answer(self, body: dict[str, Any], most: int) -> Written:
        """The answer to one request, which is sent again after a failure that may pass."""
        left = self.server.options.retries
        pause = FIRST_PAUSE
        while True:
            try:
                reply = await self.server.post(body, most)
            except EdgewrightError:
                if not left:
                    raise
                wait = pause
            else:
                if reply.status == OK:
                    return self._written(reply)
                if not left or not (reply.status in AGAIN or reply.status >= 500):
                    raise self._refused(reply)
                wait = _asked_pause(reply) or pause
            left -= 1
            pause *= 2
            await asyncio.sleep(min(wait, LONGEST_PAUSE) * random.uniform(1, 1.5))

    def _refused(self, reply: Body) -> EdgewrightError:
        if reply.status in NO_KEY:
            return self.server.needs_key(reply)
        return self.server.failed(reply.failure, REFUSED)

    def _written(self, reply: Body) -> Written:
        """What was written, the thoughts before the answer included."""
        try:
            found = (_Chat if self.server.api == "chat" else _Completion).model_validate(
                reply.value
            )
        except ValidationError as error:
            shown = reply.data[:200].decode("utf-8", "replace")
            raise self.server.failed(f"it sent no answer: {shown}") from error
        choice = found.choices[0]
        return Written(choice.written, choice.finish_reason == CUT_OFF)


class _Message(BaseModel):
    """The answer of a chat; servers call thoughts one or the other."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _ChatChoice(BaseModel):
    message: _Message
    finish_reason: Any = None

    @property
    def written(self) -> str:
        """All that was written."""
        thoughts = self.message.reasoning_content or self.message.reasoning
        answer = self.message.content or ""
        return f"{thoughts}</think>{answer}" if thoughts else answer


class _Choice(BaseModel):
    text: str
    finish_reason: Any = None

    @property
    def written(self) -> str:
        """All that was written."""
        return self.text


class _Chat(BaseModel):
    choices: Annotated[list[_ChatChoice], Field(min_length=1)]


class _Completion(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]


def _asked_pause(reply: Body) -> float | None:
    """The seconds that a server asks to wait; None if it does not say."""
    said = reply.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() and len(said) < 6 else None
