"""Rows of a data set as typed objects: plain text, a prompt with its completion, a conversation.

Nothing is converted to text. A value of another type where text belongs makes the row a bad row,
which is refused by file, row and field, or skipped and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import UsageError

__all__ = ["BadRow", "BadRows", "Conversation", "Example", "Row", "RowReport", "Turn", "parse_row"]

BadRows = Literal["refuse", "skip"]
PAIR_FIELDS = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))
CONVERSATION_FIELDS = ("messages", "conversations")
TEXT_FIELDS = ("text", "content", "completion")
ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
"""ShareGPT's own names of roles. It uses those of `ROLES` too."""


class BadRow(UsageError):
    """A row that holds something else where text, or a conversation, belongs."""


@dataclass(frozen=True)
class Example:
    """A piece of text. With a prompt, only the completion is learned and scored; else all of it."""

    completion: str
    prompt: str = ""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Attributes:
        role: one of `ROLES`.
        content: what was said; None if an assistant only calls tools.
        extra: the other fields of the message, such as `tool_calls`, which chat templates may use.
    """

    role: str
    content: str | None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def message(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content, **self.extra}


@dataclass(frozen=True)
class Conversation:
    """Turns of a conversation. The assistant's turns are learned and scored.

    Attributes:
        turns: in order, at least one of them the assistant's.
        learned_from: index of the first turn that may be learned; those before are context.
        where: file and row, for messages.
    """

    turns: tuple[Turn, ...]
    learned_from: int = 0
    where: str = field(default="", compare=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All turns as chat templates take them."""
        return [turn.message for turn in self.turns]

    @property
    def learned(self) -> list[int]:
        """The indices of the turns that are learned and scored."""
        return [
            index
            for index, turn in enumerate(self.turns)
            if turn.role == "assistant" and index >= self.learned_from
        ]


Row = Example | Conversation


@dataclass
class RowReport:
    """What happened to the rows of a source while they were read.

    Attributes:
        bad_rows: what to do with bad rows.
        skipped: bad rows that were skipped.
        first: what was wrong with the first of them.
        last_turn_only: conversations of which only the last assistant turn is learned.
    """

    bad_rows: BadRows = "refuse"
    skipped: int = 0
    first: str = ""
    last_turn_only: int = 0

    def skip(self, bad: BadRow) -> None:
        """Count a bad row that is skipped.

        Raises:
            BadRow: bad rows are refused.
        """
        if self.bad_rows == "refuse":
            hint = f"{bad.hint}; or leave such rows out: --bad-rows skip (recipe: bad_rows: skip)"
            raise BadRow(str(bad), hint) from bad
        self.skipped += 1
        self.first = self.first or str(bad)

    def notes(self, source: str) -> list[str]:
        """Notes about the rows of this source; none if every row was used whole."""
        notes: list[str] = []
        if self.skipped:
            rows = "1 row was" if self.skipped == 1 else f"{self.skipped} rows were"
            notes.append(f"{source}: {rows} skipped, the first because of {self.first}")
        if self.last_turn_only:
            notes.append(
                f"{source}: only the last assistant turn of {self.last_turn_only} conversations is "
                "learned and scored, because the chat template changes earlier turns when others "
                "follow"
            )
        return notes


def parse_row(row: Mapping[str, Any], name: str, where: str) -> Row:
    """Parse a row by the named field, or without a name by the fields that it has.

    Pairs of `PAIR_FIELDS` come first, then `CONVERSATION_FIELDS`, then `TEXT_FIELDS`.

    Args:
        row: values by field.
        name: the field that the user named; empty: none.
        where: file and row, for messages.

    Raises:
        BadRow: there is something else where text or a conversation belongs, or no such field.
    """
    if name:
        if name not in row:
            raise BadRow(f"{where}: no field `{name}`", f"fields there: {', '.join(row)}")
        if isinstance(row[name], str):
            return Example(text_of(row[name], f"{where}: field `{name}`"))
        return _conversation(row, name, where)
    for prompt, completion in PAIR_FIELDS:
        if prompt in row and completion in row:
            return _pair(row, prompt, completion, where)
    for conversation in CONVERSATION_FIELDS:
        if conversation in row:
            return _conversation(row, conversation, where)
    for text in TEXT_FIELDS:
        if text in row:
            return Example(text_of(row[text], f"{where}: field `{text}`"))
    raise BadRow(
        f"{where}: no text field among {', '.join(row)}", "name the field: jsonl:FILE:FIELD"
    )


def _pair(row: Mapping[str, Any], prompt: str, completion: str, where: str) -> Row:
    """A prompt with its completion: two texts, or (TRL) two lists of messages.

    An empty prompt leaves plain text.
    """
    if not isinstance(row[prompt], str) and not isinstance(row[completion], str):
        context = _turns(row[prompt], f"{where}: field `{prompt}`")
        reply = _turns(row[completion], f"{where}: field `{completion}`")
        return _checked(Conversation((*context, *reply), len(context), where), completion)
    asked = [text_of(row[prompt], f"{where}: field `{prompt}`")]
    answer = _filled(row[completion], f"{where}: field `{completion}`")
    if prompt == "instruction" and row.get("input") is not None:
        asked.append(text_of(row["input"], f"{where}: field `input`"))
    return Example(answer, "\n".join(filter(None, asked)))


def _conversation(row: Mapping[str, Any], name: str, where: str) -> Conversation:
    turns = _turns(row[name], f"{where}: field `{name}`")
    system = row.get("system")
    if name == "conversations" and system and turns[0].role != "system":
        turns = (Turn("system", text_of(system, f"{where}: field `system`")), *turns)
    return _checked(Conversation(turns, 0, where), name)


def _checked(conversation: Conversation, name: str) -> Conversation:
    if not conversation.learned:
        raise BadRow(
            f"{conversation.where}: field `{name}` has no turn of the assistant, so there is "
            "nothing to learn or to score",
            "add the assistant's answer",
        )
    return conversation


def _turns(value: Any, place: str) -> tuple[Turn, ...]:
    """The turns of a list of messages, or of a table of them: `{"role": [...], "content": [...]}`.

    The second form is how the package datasets stores a `Sequence` of objects.
    """
    columns = list(value.values()) if isinstance(value, Mapping) else []
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) == 1 and lengths != {-1}:
        value = [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if not isinstance(value, list):
        raise BadRow(
            f"{place} is {_kind(value)}, neither text nor a conversation",
            'write text, or a list of {"role": "user", "content": "..."}',
        )
    if not value:
        raise BadRow(f"{place} is an empty conversation", "add the turns")
    return tuple(_turn(message, f"{place}, turn {n}") for n, message in enumerate(value, 1))


def _turn(message: Any, place: str) -> Turn:
    """A message with `role` and `content`, or with ShareGPT's `from` and `value`."""
    if not isinstance(message, Mapping):
        raise BadRow(
            f"{place} is {_kind(message)}, not a message",
            'write {"role": "user", "content": "..."}',
        )
    for speaker, said, names in (("role", "content", {}), ("from", "value", SHAREGPT_ROLES)):
        if speaker not in message:
            continue
        role = message[speaker]
        role = names.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise BadRow(
                f"{place}: unknown role {message[speaker]!r}",
                f"roles are {', '.join((*ROLES, *names))}",
            )
        others = {k: v for k, v in message.items() if k not in (speaker, said) and v is not None}
        return Turn(role, _content(message.get(said), f"{place}, `{said}`", role, others), others)
    raise BadRow(
        f"{place} has neither `role` nor `from`", 'write {"role": "user", "content": "..."}'
    )


def _content(value: Any, place: str, role: str, others: Mapping[str, Any]) -> str | None:
    """What was said: text, or a list of `{"type": "text", "text": ...}`, which are joined."""
    if value is None and role == "assistant" and others.get("tool_calls"):
        return None
    if isinstance(value, list) and value:
        return "".join(_part(part, f"{place}, part {n}") for n, part in enumerate(value, 1))
    return text_of(value, place) if role == "system" else _filled(value, place)


def _part(part: Any, place: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text":
        kind = part.get("type") if isinstance(part, Mapping) else None
        what = f"of the type {kind!r}" if isinstance(kind, str) else _kind(part)
        raise BadRow(f"{place} is {what}, not text", "leave only parts of the type `text`")
    return text_of(part.get("text"), place)


def _filled(value: Any, place: str) -> str:
    """Text that must not be empty."""
    text = text_of(value, place)
    if not text:
        raise BadRow(f"{place} is empty", "put text there")
    return text


def text_of(value: Any, place: str) -> str:
    """The value, which must be text that UTF-8 can hold.

    Args:
        value: the value of a field.
        place: file, row and field, for messages.

    Raises:
        BadRow: it is something else.
    """
    if not isinstance(value, str):
        raise BadRow(f"{place} is {_kind(value)}, not text", "put text there")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise BadRow(f"{place} has half of a surrogate pair, which is no character", "remove it")
    return value


def _kind(value: Any) -> str:
    """What a value is, for a message: `null`, `the number 5`, `a list`, `an object`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else f"of the type {type(value).__name__}"
