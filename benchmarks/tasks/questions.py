"""Questions with one right answer, from rows in GSM8K's format or any with two fields.

A chat model is asked to reason step by step and to put its answer in a box, as the published scores
of instruction models are measured, unless worked examples show another form.

The model may reason before it answers. Its final answer is extracted and compared with the file's
answer as mathematics and not as text (`final_answers`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ...data.rows import Example, parse_row
from ...data.sources import Source
from ...errors import UsageError
from .accuracy import Answer
from .final_answers import extract_answer, require_math_verify, same_answer
from .writers import TaskPrompt, Writer

__all__ = [
    "Pair",
    "answer_questions",
    "frame",
    "read_pairs",
]

Pair = tuple[str, str]
"""A question, and its answer, which may begin with the reasoning."""
BOX = "Reason step by step, and put your final answer in \\boxed{}."
"""What a chat model is asked beside the question."""
FRAMING = "step by step, boxed"
"""What the context records where chat models are asked so. Answers to the bare question differ."""
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
    replies = writer.write([frame(q + box, examples) for q, _ in asked], max_new_tokens, stops)
    answers: list[Answer] = []
    for (question, worked), reply in zip(asked, replies, strict=True):
        expected = extract_answer(worked) or worked.strip()
        text = reply.text if writer.chats else reply.text.split(NEXT_QUESTION)[0]
        correct = same_answer(expected, extract_answer(text))
        answers.append(Answer(label, question, expected, text, correct, reply.cut_off))
    return answers
