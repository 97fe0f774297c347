"""Render a conversation to tokens by the model's chat template, and find the assistant's turns.

The tokens are those of `tokenizer.apply_chat_template`. Which of them the assistant wrote is what
the template marks with `{% generation %}`. Without such marks it is found by rendering prefixes of
the conversation: an answer begins where the generation prompt ends, and ends with its end token.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .rows import BadRow, Conversation, RowReport

__all__ = ["render_conversation", "template_keeps"]

GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True)
class _Rendering:
    """A rendered conversation.

    Attributes:
        text: the whole text.
        ids: its tokens.
        ends: the character where each token ends; None if the tokenizer does not tell.
    """

    tokenizer: Any
    text: str
    ids: list[int]
    ends: list[int] | None

    @classmethod
    def of(cls, tokenizer: Any, text: str) -> _Rendering:
        """Tokenize a rendered text as `apply_chat_template` does, with no tokens added."""
        fast = bool(tokenizer.is_fast)
        found = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False
        )
        ends = [end for _, end in found["offset_mapping"]] if fast else None
        return cls(tokenizer, text, list(found["input_ids"]), ends)

    def shared(self, text: str) -> int:
        """The number of tokens at the start that this text begins with too."""
        if self.ends is not None and self.text.startswith(text):
            return bisect_right(self.ends, len(text))
        other = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        pairs = zip(self.ids, other, strict=False)
        return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.ids), len(other)))


def render_conversation(
    tokenizer: Any, conversation: Conversation, report: RowReport | None = None
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and for each one whether it is learned and scored.

    Args:
        tokenizer: of the model. Without a chat template the text is plain: the system's words,
            then `Question: ...` and `Answer: ...` in turns; the end token ends every answer.
        conversation: what was said.
        report: counts conversations of which only the last assistant turn can be found.

    Raises:
        BadRow: the chat template refuses the conversation, or changes the answer to be learned.
    """
    if not tokenizer.chat_template:
        return _plain(tokenizer, conversation)
    if GENERATION.search(tokenizer.chat_template):
        return _marked(tokenizer, conversation)
    whole = _Rendering.of(tokenizer, _rendered(tokenizer, conversation))
    spans = [_span(tokenizer, conversation, whole, index) for index in conversation.learned]
    if None in spans[:-1] and report:
        report.last_turn_only += 1
    kept = spans[-1:] if None in spans else spans
    learned = [False] * len(whole.ids)
    for span in kept:
        if span is None or span[0] >= span[1]:
            raise BadRow(
                f"{conversation.where}: the chat template changes the conversation when the "
                "assistant's last turn follows, so that turn cannot be found",
                "use a chat template that marks it with {% generation %}",
            )
        learned[span[0] : span[1]] = [True] * (span[1] - span[0])
    return whole.ids, learned


def template_keeps(tokenizer: Any, prompt: str, messages: Sequence[dict[str, Any]]) -> bool:
    """Whether the template renders the last message unchanged after its generation prompt.

    Templates drop the thoughts in an answer, or begin one themselves in the generation prompt.

    Args:
        tokenizer: with a chat template.
        prompt: the rendering of all but the last message, with the generation prompt.
        messages: the whole conversation; the last message is the assistant's.
    """
    whole = _try(tokenizer, messages)
    answer = messages[-1]["content"].strip()
    return whole is not None and whole.startswith(prompt) and answer in whole[len(prompt) :]


def _rendered(tokenizer: Any, conversation: Conversation) -> str:
    """The text of the whole conversation."""
    try:
        return tokenizer.apply_chat_template(conversation.messages, tokenize=False)
    except UsageError:  # it was stopped, and would be again for the next row
        raise
    except Exception as error:  # whatever a template raises, and what jinja raises for a mistake
        raise _refused(conversation, error) from error


def _refused(conversation: Conversation, error: Exception) -> BadRow:
    return BadRow(
        f"{conversation.where}: the chat template refuses the conversation: {error}",
        "change the order of the turns to what the template takes",
    )


def _try(
    tokenizer: Any, messages: Sequence[dict[str, Any]], generation_prompt: bool = False
) -> str | None:
    """The text of a part of a conversation; None if the template refuses it."""
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=generation_prompt
        )
    except UsageError:
        raise
    except Exception:  # as above
        return None


def _span(
    tokenizer: Any, conversation: Conversation, whole: _Rendering, index: int
) -> tuple[int, int] | None:
    """The tokens of a turn of the assistant, its end token included; None: they move.

    They move if the turns up to this one, rendered alone, are not the start of the whole.
    """
    messages = conversation.messages
    last = index + 1 == len(messages)
    after = whole.text if last else _try(tokenizer, messages[: index + 1])
    if after is None or not whole.text.startswith(after):
        return None
    if not index:  # there is nothing before it that a template could render
        start = after.rfind((messages[0]["content"] or "").strip())
        return None if start < 0 else _ending(whole, whole.shared(after[:start]), after)
    opened = _try(tokenizer, messages[:index], generation_prompt=True)
    if opened is None or not whole.text.startswith(opened):
        before = _try(tokenizer, messages[:index])
        if opened is None or before is None or not whole.text.startswith(before):
            return None
    return _ending(whole, whole.shared(opened), after)


def _ending(whole: _Rendering, start: int, after: str) -> tuple[int, int]:
    """The span from `start` to the last special token; what follows it is the template's."""
    stop = whole.shared(after)
    known = whole.tokenizer.added_tokens_decoder
    for end in range(stop, start, -1):
        if (token := known.get(whole.ids[end - 1])) is not None and token.special:
            blank = not whole.tokenizer.decode(whole.ids[end:stop]).strip()
            return start, end if blank else stop
    return start, stop


def _marked(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """By a template that marks what the assistant generates."""
    try:
        found = tokenizer.apply_chat_template(
            conversation.messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
    except UsageError:
        raise
    except Exception as error:  # as above
        raise _refused(conversation, error) from error
    ids = list(found["input_ids"])
    context = 0
    if conversation.learned_from:
        text = _try(tokenizer, conversation.messages[: conversation.learned_from])
        context = _Rendering.of(tokenizer, _rendered(tokenizer, conversation)).shared(text or "")
    learned = [bool(mark) and at >= context for at, mark in enumerate(found["assistant_masks"])]
    return ids, learned


def _plain(tokenizer: Any, conversation: Conversation) -> tuple[list[int], list[bool]]:
    """Without a chat template: questions and answers as plain text."""
    ids = list(tokenizer("")["input_ids"])
    learned = [False] * len(ids)
    for index, turn in enumerate(conversation.turns):
        gap = "\n\n" if index and conversation.turns[index - 1].role != "user" else ""
        if turn.role == "tool" or turn.content is None:
            raise BadRow(
                f"{conversation.where}: turn {index + 1} calls a tool or is its result, and the "
                "model has no chat template, which would say how to write that",
                "add a chat template, or leave such rows out",
            )
        opening, said = {
            "system": (f"{gap}{turn.content}", ""),
            "user": (f"{gap}Question: {turn.content}\n", ""),
            "assistant": (f"{gap}Answer:", f" {turn.content}"),
        }[turn.role]
        context = tokenizer(opening, add_special_tokens=False)["input_ids"]
        answer = tokenizer(said, add_special_tokens=False)["input_ids"] if said else []
        answer = [*answer, tokenizer.eos_token_id] if said else []
        ids += [*context, *answer]
        learned += [False] * len(context) + [index in conversation.learned] * len(answer)
    return ids, learned
