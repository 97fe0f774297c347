"""What writes the answers to tasks: a model that is loaded here, or a server that has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ...data.packing import chat_prompt
from .backends import Backend
from .generation import answer_prompts, stops_at
from .kept_answers import KeptAnswers

__all__ = ["LocalWriter", "TaskPrompt", "Writer", "Written", "thinks", "tokens_of"]


@dataclass(frozen=True)
class TaskPrompt:
    """What is asked.

    Attributes:
        turns: as a conversation whose last turn is the user's.
        text: as a text that a model without a chat template continues.
        opening: what the answer begins with, in a chat; see `Writer.opens`.
    """

    turns: Sequence[Mapping[str, str]]
    text: str
    opening: str = ""


@dataclass(frozen=True)
class Written:
    """An answer.

    Attributes:
        text: of it, without its opening.
        cut_off: whether it reached the most tokens of an answer before its end.
    """

    text: str
    cut_off: bool = False


class Writer(Protocol):
    """Writes answers greedily."""

    @property
    def chats(self) -> bool:
        """Whether it is asked in conversations; else it continues texts."""
        ...

    @property
    def opens(self) -> bool:
        """Whether answers in conversations can begin with a given text."""
        ...

    def write(
        self, prompts: Sequence[TaskPrompt], max_new_tokens: int, stops: Sequence[str] = ()
    ) -> list[Written]:
        """Answers to prompts, in their order.

        Args:
            prompts: what is asked.
            max_new_tokens: the most tokens of an answer.
            stops: texts that end an answer. It may end with them or before them.
        """
        ...


def thinks(tokenizer: Any) -> bool:
    """Whether the chat template has a place for thoughts before the answer."""
    return "</think>" in str(tokenizer.chat_template or "")


def tokens_of(tokenizer: Any, prompt: TaskPrompt) -> list[int]:
    """The tokens of a prompt, by the chat template if there is one."""
    if not tokenizer.chat_template:
        return list(tokenizer(prompt.text)["input_ids"])
    text = chat_prompt(tokenizer, prompt.turns) + prompt.opening
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@dataclass(frozen=True)
class LocalWriter:
    """A model that is loaded here.

    Attributes:
        backend: the model.
        tokenizer: its tokenizer.
        kept: answers that were written before, to which new ones are added; None: keep none.
    """

    backend: Backend
    tokenizer: Any
    kept: KeptAnswers | None = None

    @property
    def chats(self) -> bool:
        """See `Writer.chats`."""
        return bool(self.tokenizer.chat_template)

    @property
    def opens(self) -> bool:
        """See `Writer.opens`."""
        return self.chats and not thinks(self.tokenizer)

    def write(
        self, prompts: Sequence[TaskPrompt], max_new_tokens: int, stops: Sequence[str] = ()
    ) -> list[Written]:
        """See `Writer.write`."""
        ended = stops_at(self.tokenizer, stops)
        asked = [tokens_of(self.tokenizer, prompt) for prompt in prompts]
        written = answer_prompts(
            self.backend, self.tokenizer, asked, max_new_tokens, stops, self.kept
        )
        # Special tokens stay in the text, because </think> may be one.
        return [
            Written(
                self.tokenizer.decode(tokens, skip_special_tokens=False),
                len(tokens) >= max_new_tokens and not (ended and ended(tokens)),
            )
            for tokens in written
        ]
