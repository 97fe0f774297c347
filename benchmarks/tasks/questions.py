r"""Questions with one right answer, from rows in GSM8K's format or any with two fields.

A chat model is asked to reason step by step and to put its answer in a box, as the published scores
of instruction models are measured, unless worked examples show another form.

The model may reason before it answers. Its final answer is extracted and compared with the file's
answer as mathematics and not as text. The package math-verify (Kydlíček et al. 2025) parses both,
so 1/2, 0.5 and \frac{1}{2} are the same answer.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from ...data.rows import Example, parse_row
from ...data.sources import Source
from ...errors import EdgewrightError, UsageError
from .accuracy import Answer
from .writers import TaskPrompt, Writer

__all__ = [
    "Pair",
    "answer_questions",
    "extract_answer",
    "frame",
    "read_pairs",
    "require_math_verify",
    "same_answer",
]

Pair = tuple[str, str]
"""A question, and its answer, which may begin with the reasoning."""
MARKS = (
    re.compile(r"####\s*(.+)"),  # GSM8K
    re.compile(r"(?:final answer|answer)\s*(?:is|:|=)[\s:]*(.+)", re.IGNORECASE),
)
BOXED = "\\boxed{"
BOX = "Reason step by step, and put your final answer in \\boxed{}."
"""What a chat model is asked beside the question."""
FRAMING = "step by step, boxed"
"""What the context records where chat models are asked so. Answers to the bare question differ."""
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
NOISE = str.maketrans("", "", ",$%")
NEXT_QUESTION = "\nQuestion:"
"""Where a model without a chat template stops answering and invents the next question."""


def read_pairs(source: Source) -> list[Pair]:
    """Read questions and answers, in their order.

    Raises:
        UsageError: a row has no question or no answer, or there are no rows.
    """
    pairs: list[Pair] = []
    for where, values in source.records():
        row = parse_row(values, "", where)
        pair = (row.prompt, row.completion) if isinstance(row, Example) else ("", "")
        if not all(text.strip() for text in pair):
            raise UsageError(
                f"{where}: no question or no answer",
                'each line: {"question": "...", "answer": "... #### 42"}',
            )
        pairs.append(pair)
    return pairs


def extract_answer(text: str) -> str:
    r"""The final answer of a solution, or an empty string.

    Everything up to `</think>` is ignored. The first of these that exists is used: the text after
    the last `####`, the content of the last `\boxed{}`, the text after the last `answer is` or
    `answer:`, the last number.
    """
    _, _, reply = text.rpartition("</think>")
    boxed = _boxed(reply)
    for found in (
        MARKS[0].findall(reply),
        [boxed] if boxed else [],
        MARKS[1].findall(reply),
        NUMBER.findall(reply),
    ):
        if found:
            return str(found[-1]).strip().rstrip(".").strip(" *`\"'")
    return ""


def _boxed(text: str) -> str:
    r"""The content of the last \boxed{...}, which may contain braces."""
    begin = text.rfind(BOXED)
    if begin < 0:
        return ""
    depth = 0
    start = begin + len(BOXED)
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth < 0:
            return text[start:at]
    return ""


def require_math_verify() -> Any:
    """Import math-verify, which compares answers. Call this before a model starts to work.

    Raises:
        EdgewrightError: it is not installed.
    """
    try:
        return importlib.import_module("math_verify")  # here, because it is an optional extra
    except ImportError as error:
        raise EdgewrightError(
            "comparing answers needs math-verify, which is not installed",
            "pip install 'edgewright[eval]'",
        ) from error


def same_answer(expected: str, given: str) -> bool:
    """Whether two final answers are the same number, expression or text."""
    plain = [side.translate(NOISE).strip().casefold() for side in (expected, given)]
    if not plain[1]:
        return False
    if plain[0] == plain[1]:
        return True
    library = require_math_verify()
    gold, found = (library.parse(f"${side.translate(NOISE)}$") for side in (expected, given))
    return bool(gold and found and library.verify(gold, found))


def frame(question: str, examples: Sequence[Pair]) -> TaskPrompt:
    """The prompt for a question after worked examples."""
    turns = [
        {"role": role, "content": text}
        for pair in examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    turns.append({"role": "user", "content": question})
    return TaskPrompt(turns, plain_frame(question, examples))


def plain_frame(question: str, examples: Sequence[Pair]) -> str:
    """The prompt for a question after worked examples, as plain text."""
    shown = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
    return f"{shown}Question: {question}\nAnswer:"


def answer_questions(
    writer: Writer,
    label: str,
    pairs: Sequence[Pair],
    shots: int,
    limit: int,
    max_new_tokens: int,
) -> list[Answer]:
    """Ask the questions of a file. The first `shots` are shown as examples and not asked.

    Args:
        writer: the model.
        label: name of the task.
        pairs: questions and answers.
        shots: number of examples.
        limit: the most questions to ask.
        max_new_tokens: the most tokens of an answer.

    Raises:
        UsageError: fewer than two questions are left to ask.
        EdgewrightError: math-verify is not installed.
    """
    require_math_verify()
    examples = pairs[:shots]
    asked = pairs[shots : shots + limit]
    if len(asked) < 2:
        raise UsageError(
            f"{label}: {len(pairs)} questions minus {shots} examples leave fewer than 2",
            "give more questions, or fewer --shots",
        )
    box = f"\n\n{BOX}" if writer.chats and not examples else ""
    stops = () if writer.chats else (NEXT_QUESTION,)
    texts = writer.write([frame(q + box, examples) for q, _ in asked], max_new_tokens, stops)
    answers: list[Answer] = []
    for (question, worked), written in zip(asked, texts, strict=True):
        expected = extract_answer(worked) or worked.strip()
        text = written if writer.chats else written.split(NEXT_QUESTION)[0]
        correct = same_answer(expected, extract_answer(text))
        answers.append(Answer(label, question, expected, text, correct))
    return answers
