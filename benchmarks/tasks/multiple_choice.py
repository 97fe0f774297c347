"""Multiple choice by likelihood: the model never writes, it is asked which of the choices it would rather have written."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.packing import IGNORE, Encoded
from ...data.sources import json_lines
from ...errors import UsageError
from .accuracy import Answer, continuations
from .backends import Backend
from .questions import Pair, plain_frame

__all__ = ["Choice", "choose", "read_choices"]

FORMAT = '{"question": "...", "choices": ["...", "..."], "answer": 0}, where the answer is an index, a letter or a choice'


@dataclass(frozen=True)
class Choice:
    """A question, what it may be answered with, and the position of the right one."""

    question: str
    choices: tuple[str, ...]
    right: int


def read_choices(path: Path) -> list[Choice]:
    """The questions of a JSONL file in its order; ARC's and MMLU's spellings are understood.

    Raises:
        UsageError: a row has no question, no two choices, or no answer among them.
    """
    return [
        _choice(row, f"{path}, row {number}") for number, row in enumerate(json_lines(str(path)), 1)
    ]


def _choice(row: Mapping[str, Any], where: str) -> Choice:
    options, labels = row.get("choices"), list(string.ascii_uppercase)
    if isinstance(options, Mapping):  # ARC: {"text": [...], "label": [...]}
        options, labels = (
            options.get("text"),
            [str(label) for label in options.get("label") or labels],
        )
    question, answer = row.get("question"), row.get("answer", row.get("answerKey"))
    if not isinstance(question, str) or not isinstance(options, list) or len(options) < 2:
        raise UsageError(f"{where}: not a multiple-choice question", f"each line: {FORMAT}")
    texts = [str(option) for option in options]
    known = [range(len(texts)), labels[: len(texts)], texts]
    right = next((list(names).index(answer) for names in known if answer in names), None)
    if right is None:
        raise UsageError(
            f"{where}: the answer {answer!r} is none of the {len(texts)} choices",
            f"each line: {FORMAT}",
        )
    return Choice(question, tuple(texts), right)


def choose(
    backend: Backend,
    tokenizer: Any,
    label: str,
    questions: Sequence[Choice],
    shots: int,
    limit: int,
) -> tuple[list[Answer], list[Answer]]:
    """What the model finds likeliest for each question: as it stands, and by the byte of the choice's text.

    The second view takes from long choices their handicap (Gao 2021, Multiple Choice Normalization in LM Evaluation). No chat
    template: these are continuations.

    Raises:
        UsageError: nothing is left to ask.
    """
    examples: list[Pair] = [(q.question, q.choices[q.right]) for q in questions[:shots]]
    asked = questions[shots : shots + limit]
    if len(asked) < 2:
        raise UsageError(
            f"{label}: {len(questions)} questions, {shots} of them shown: fewer than 2 to ask",
            "give more, or fewer --shots",
        )
    rows: list[Encoded] = []
    for one in asked:
        context = plain_frame(one.question, examples)
        ids = tokenizer(context)["input_ids"]
        for choice in one.choices:
            whole = tokenizer(f"{context} {choice}")["input_ids"]
            shared = next(
                (i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), len(ids)
            )
            rows.append(Encoded(whole, [IGNORE] * shared + whole[shared:]))
    scores = iter(continuations(backend, rows))
    plain, by_byte = [], []
    for one in asked:
        found = [next(scores)[0] for _ in one.choices]
        weighed = [
            score / max(len(choice.encode()), 1)
            for score, choice in zip(found, one.choices, strict=True)
        ]
        for answers, values in ((plain, found), (by_byte, weighed)):
            best = max(range(len(values)), key=values.__getitem__)
            answers.append(
                Answer(
                    label,
                    one.question,
                    one.choices[one.right],
                    one.choices[best],
                    best == one.right,
                )
            )
    return plain, by_byte
