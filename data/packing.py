"""Convert rows of data to rows of tokens: chat template, labels, packing."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from .conversations import render_conversation, template_keeps
from .rows import Conversation, Example, Row, RowReport, Turn

__all__ = [
    "IGNORE",
    "Encoded",
    "Example",
    "chat_prompt",
    "encode",
    "pack",
    "plain_prompt",
    "render_prompt",
    "rows_hash",
    "shuffled_forever",
    "windows",
]

IGNORE = -100
"""The label of a token that is not scored (the value torch's cross-entropy ignores)."""


@dataclass(frozen=True)
class Encoded:
    """Token ids, and for each one its label (`IGNORE` if it is not scored)."""

    ids: list[int]
    labels: list[int]


def render_prompt(tokenizer: Any, question: str) -> str:
    """The prompt for a question: by the chat template if there is one, else as plain text."""
    if tokenizer.chat_template:
        return chat_prompt(tokenizer, [{"role": "user", "content": question}])
    return plain_prompt(question)


def plain_prompt(question: str) -> str:
    """The prompt for a question as plain text."""
    return f"Question: {question}\nAnswer: <think>\n"


def chat_prompt(tokenizer: Any, turns: Sequence[Mapping[str, Any]]) -> str:
    """The prompt for the assistant's next turn, by the chat template.

    Raises:
        UsageError: the template fails.
    """
    try:
        return str(
            tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
        )
    except UsageError:
        raise
    except Exception as error:  # whatever a template raises, and what jinja raises for a mistake
        raise UsageError(
            f"{tokenizer.name_or_path}: the chat template fails: {error}",
            "restore the chat template of the model",
        ) from error


def encode(tokenizer: Any, row: Row, report: RowReport | None = None) -> Encoded:
    """Tokenize one row of data. What is learned ends in the end token, if it is not all the text.

    Conversations are rendered by the chat template, and so are pairs if it keeps the completion as
    it is. Otherwise the completion follows the generation prompt word for word, because a template
    may drop the thoughts in it.

    Args:
        tokenizer: of the model.
        row: text, a prompt with its completion, or a conversation.
        report: counts conversations that are learned in part.

    Raises:
        BadRow: the chat template refuses a conversation.
        UsageError: an end token is needed, and the tokenizer has none.
    """
    if isinstance(row, Example) and not row.prompt:
        ids = tokenizer(row.completion, verbose=False)[
            "input_ids"
        ]  # packing cuts it: no warning that the text is too long
        return Encoded(list(ids), list(ids))
    templated = bool(tokenizer.chat_template)
    if tokenizer.eos_token_id is None and not (templated and isinstance(row, Conversation)):
        raise UsageError(
            f"{tokenizer.name_or_path}: no end token, which every completion ends in: neither its "
            "tokenizer_config.json nor generation_config.json nor config.json names one",
            "set eos_token_id in generation_config.json",
        )
    if isinstance(row, Conversation):
        return _labelled(*render_conversation(tokenizer, row, report))
    asked = render_prompt(tokenizer, row.prompt)
    talk = Conversation((Turn("user", row.prompt), Turn("assistant", row.completion)))
    if templated and template_keeps(tokenizer, asked, talk.messages):
        return _labelled(*render_conversation(tokenizer, talk, report))
    prompt = tokenizer(asked, add_special_tokens=not templated)["input_ids"]
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"] + [
        tokenizer.eos_token_id
    ]
    return Encoded(prompt + completion, [IGNORE] * len(prompt) + completion)


def _labelled(ids: list[int], learned: list[bool]) -> Encoded:
    pairs = zip(ids, learned, strict=True)
    return Encoded(ids, [token if known else IGNORE for token, known in pairs])


def pack(encoded: Iterable[Encoded], seq_len: int) -> Iterator[Encoded]:
    """Join examples and cut them into rows of `seq_len` tokens. An incomplete row is dropped."""
    ids: list[int] = []
    labels: list[int] = []
    for piece in encoded:
        ids += piece.ids
        labels += piece.labels
        while len(ids) >= seq_len:
            yield Encoded(ids[:seq_len], labels[:seq_len])
            ids = ids[seq_len:]
            labels = labels[seq_len:]


def _prefix(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before any text (a begin token, or none)."""
    return list(tokenizer("")["input_ids"])


def windows(tokenizer: Any, rows: Iterable[Encoded], seq_len: int) -> Iterator[Encoded]:
    """Packed rows. Each one begins with the tokenizer's prefix, which some models need."""
    prefix = _prefix(tokenizer)
    skip = len(prefix)

    def bare(row: Encoded) -> Encoded:
        return Encoded(row.ids[skip:], row.labels[skip:]) if row.ids[:skip] == prefix else row

    for row in pack(map(bare, rows), seq_len - skip):
        yield Encoded(prefix + row.ids, [IGNORE] * skip + row.labels)


def shuffled_forever(rows: Sequence[Encoded], seed: int) -> Iterator[Encoded]:
    """Repeat the rows without end, in a new order each time; the seed determines all orders."""
    rng = random.Random(seed)
    order = list(range(len(rows)))
    while True:
        rng.shuffle(order)
        yield from (rows[i] for i in order)


def rows_hash(rows: Sequence[Encoded]) -> str:
    """A short hash of token rows. Results are compared only if their rows are equal."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.ids, row.labels]).encode())
    return digest.hexdigest()[:16]
