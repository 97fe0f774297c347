"""Read the questions that a teacher model is asked, and the way to judge its answers to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...data.reasoning import extract_answer as extract_strictly
from ...data.reasoning import held_out_questions, is_correct, training_problems
from ...data.sources import Source
from ...errors import UsageError
from ..tasks.final_answers import extract_answer, require_math_verify, same_answer
from ..tasks.questions import read_pairs
from .votes import SameAnswer

__all__ = ["Question", "read_questions"]


@dataclass(frozen=True)
class Question:
    """A question and the way to judge answers to it.

    Attributes:
        row: its number in the source, from 1 on; of a file with a range, its number in the file.
        text: the question.
        expected: the answer that the source gives.
        answer_of: extracts the final answer from a chain of thought.
        verify: whether a chain of thought ends with the expected answer.
        same: whether two final answers are the same.
    """

    row: int
    text: str
    expected: str
    answer_of: Callable[[str], str]
    verify: Callable[[str], bool]
    same: SameAnswer


def read_questions(prompts: str, limit: int, seed: int) -> tuple[list[Question], int]:
    """Read the questions of a source, each text only once.

    Built-in problems are training problems, never problems of the held-out set. The answers to a
    file's questions are compared by math-verify.

    Args:
        prompts: the source, `builtin:reasoning` or `jsonl:FILE`.
        limit: the most questions.
        seed: seed of the built-in problems.

    Returns:
        The questions, and the number of repeated ones that were left out.

    Raises:
        UsageError: the source has no questions with answers.
        EdgewrightError: an optional extra is not installed.
    """
    source = Source.parse(prompts)
    if source.generated:
        stream = enumerate(training_problems(seed, held_out_questions()), 1)
        made = (
            Question(
                row,
                p.question,
                p.answer,
                extract_strictly,
                lambda text, p=p: is_correct(p, text),
                str.__eq__,
            )
            for row, p in stream
        )
    elif source.kind == "jsonl" and not source.field:
        require_math_verify()
        rows = enumerate(read_pairs(source), source.first_row())
        made = (_from_file(row, *pair) for row, pair in rows)
    else:
        raise UsageError(
            f"{prompts}: no questions with answers",
            "give builtin:reasoning, or jsonl:FILE with the fields question and answer",
        )
    found: dict[str, Question] = {}
    repeated = 0
    for question in made:
        repeated += question.text in found
        found.setdefault(question.text, question)
        if len(found) == limit:
            break
    return list(found.values()), repeated


def _from_file(row: int, question: str, worked: str) -> Question:
    expected = extract_answer(worked) or worked.strip()
    return Question(
        row,
        question,
        expected,
        extract_answer,
        lambda text: same_answer(expected, extract_answer(text)),
        same_answer,
    )
