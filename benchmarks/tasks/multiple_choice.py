"""Multiple choice by likelihood: the choice that the model finds most probable is its answer.

The model generates nothing. It scores each choice as a continuation of the question.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...data.packing import IGNORE, Encoded
from ...data.rows import text_of
from ...data.sources import Source
from ...errors import UsageError
from .accuracy import Answer, continuations
from .backends import Backend
from .questions import Pair, plain_frame

__all__ = ["ChoiceQuestion", "answer_by_likelihood", "read_choices"]

FORMAT = (
    '{"question": "...", "choices": ["...", "..."], "answer": 0}, where the answer is an index, '
    "a letter or a choice; where choices have labels, a label or a choice"
)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its choices, and the index of the right one."""

    question: str
    choices: tuple[str, ...]
    right: int


def read_choices(source: Source) -> list[ChoiceQuestion]:
    """Read questions with choices, in their order. The formats of ARC and MMLU work too.

    Raises:
        UsageError: a row has no question, fewer than two choices, or no answer among them, or
            more choices than labels.
    """
    return [_parse(row, where) for where, row in source.records()]


def _parse(row: Mapping[str, Any], where: str) -> ChoiceQuestion:
    options = row.get("choices")
    labels = None
    if isinstance(options, Mapping):  # ARC: {"text": [...], "label": [...]}
        labels = options.get("label")
        options = options.get("text")
    question = row.get("question")
    if not isinstance(question, str) or not isinstance(options, list) or len(options) < 2:
        raise UsageError(f"{where}: not a multiple-choice question", f"each line: {FORMAT}")
    texts = [option for option in options if isinstance(option, str)]
    if len(texts) < len(options):
        raise UsageError(f"{where}: a choice is not text", f"each line: {FORMAT}")
    if labels and not (isinstance(labels, list) and len(labels) == len(texts)):
        raise UsageError(
            f"{where}: there must be as many labels as choices, {len(texts)}",
            "give each choice a label, or leave `label` out",
        )
    return ChoiceQuestion(
        text_of(question, f"{where}: field `question`"),
        tuple(text_of(text, f"{where}: field `choices`") for text in texts),
        _right(row.get("answer", row.get("answerKey")), texts, labels, where),
    )


def _right(answer: Any, texts: list[str], labels: list[Any] | None, where: str) -> int:
    """The index of the right choice: by its label, else its text; without labels by its index too.

    Raises:
        UsageError: the answer names no choice, or may mean one as well as another.
    """
    letters = string.ascii_uppercase[: len(texts)]
    names = [[str(label) for label in labels]] if labels else [range(len(texts)), list(letters)]
    sought = str(answer) if labels else answer
    found = {known.index(sought) for known in names if sought in known}
    if not (labels and found) and answer in texts:
        found.add(texts.index(answer))
    if isinstance(answer, bool) or len(found) != 1:
        which = "several" if len(found) > 1 else "none"
        raise UsageError(
            f"{where}: the answer {answer!r} is {which} of the {len(texts)} choices",
            f"each line: {FORMAT}",
        )
    return found.pop()


def answer_by_likelihood(
    backend: Backend,
    tokenizer: Any,
    label: str,
    questions: Sequence[ChoiceQuestion],
    shots: int,
    limit: int,
) -> tuple[list[Answer], list[Answer]]:
    """Find the most probable choice of each question, in two ways.

    The first way compares the log-likelihoods of the choices, the second one these divided by the
    bytes of a choice's text. The second way is fairer to long choices (Gao 2021, Multiple Choice
    Normalization in LM Evaluation). No chat template is used, because these are continuations.

    Args:
        backend: the model.
        tokenizer: its tokenizer.
        label: name of the task.
        questions: the questions; the first `shots` are shown as examples with their answers.
        shots: number of examples.
        limit: the most questions to ask.

    Returns:
        The answers by plain log-likelihood, and those by log-likelihood per byte.

    Raises:
        UsageError: fewer than two questions are left to ask.
    """
    examples: list[Pair] = [(q.question, q.choices[q.right]) for q in questions[:shots]]
    asked = questions[shots : shots + limit]
    if len(asked) < 2:
        raise UsageError(
            f"{label}: {len(questions)} questions minus {shots} examples leave fewer than 2",
            "give more questions, or fewer --shots",
        )
    rows = [row for question in asked for row in _rows(tokenizer, question, examples)]
    scores = iter(continuations(backend, rows))
    plain: list[Answer] = []
    by_byte: list[Answer] = []
    for question in asked:
        found = [next(scores)[0] for _ in question.choices]
        weighted = [
            score / max(len(choice.encode()), 1)
            for score, choice in zip(found, question.choices, strict=True)
        ]
        plain.append(_answer(label, question, found))
        by_byte.append(_answer(label, question, weighted))
    return plain, by_byte


def _rows(tokenizer: Any, question: ChoiceQuestion, examples: Sequence[Pair]) -> list[Encoded]:
    """A row for each choice. Only the tokens of the choice have labels, so only they are scored."""
    context = plain_frame(question.question, examples)
    ids = tokenizer(context)["input_ids"]
    rows: list[Encoded] = []
    for choice in question.choices:
        whole = tokenizer(f"{context} {choice}")["input_ids"]
        shared = next(
            (i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b), len(ids)
        )
        rows.append(Encoded(whole, [IGNORE] * shared + whole[shared:]))
    return rows


def _answer(label: str, question: ChoiceQuestion, scores: Sequence[float]) -> Answer:
    """The choice with the highest score as the answer."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return Answer(
        label,
        question.question,
        question.choices[question.right],
        question.choices[best],
        best == question.right,
    )
