"""Code tasks: the model writes or completes a function, and the tests in the file check it.

A chat model is asked for a whole program, and its answer begins with the opening of a code block,
as the published scores of instruction models are measured (Liu et al. 2023, EvalPlus). A model that
thinks first gets no such beginning. A model without a chat template continues the code.

Programs run in a sandbox. Two formats are supported: HumanEval's (`prompt`, `test`, `entry_point`;
Chen et al. 2021) and MBPP's (`text` or `prompt`, `test_list`; Austin et al. 2021).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ...data.rows import text_of
from ...data.sources import Source
from ...errors import UsageError
from .accuracy import Answer
from .answer_code import defined_names, needed_code, wanted_names
from .fences import Block, fenced_blocks
from .questions import frame
from .sandbox import ProgramResult, run_program
from .writers import TaskPrompt, Writer

__all__ = ["Exercise", "code_of", "judge", "read_exercises", "solve_exercises"]

FORMAT = (
    '{"prompt": "def f(...", "test": "def check(candidate): ...", "entry_point": "f"} or '
    '{"text": "...", "test_list": ["assert ..."]}'
)
SECONDS = 5.0
INSTRUCTION = (
    "Write a self-contained Python program that solves this problem. Put it in one Markdown code "
    "block."
)
OPENING = "```python\n"
"""What the answer of a chat model begins with."""
CLOSING = ("\n```", "\nif __name__", "\nprint(", "\nassert ", "\n# Test", "\n# Example")
"""Where such an answer ends: its block ends, or its own checks and examples begin."""
AFTER_FUNCTION = ("\ndef ", "\nclass ", "\nif __name__", "\nprint(", "\nassert ", "\n#")
"""Texts that show that a completion has left the function that it was to complete."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        question: the task for the model.
        begun: the code that the answer continues; empty if the answer is a whole program.
        tests: the code that checks the answer.
    """

    question: str
    begun: str
    tests: str


def read_exercises(source: Source) -> list[Exercise]:
    """Read exercises, in their order.

    Raises:
        UsageError: a row has neither format.
    """
    return [_exercise(row, where) for where, row in source.records()]


def _exercise(row: Mapping[str, Any], where: str) -> Exercise:
    if all(isinstance(row.get(key), str) for key in ("prompt", "test", "entry_point")):
        prompt, test, entry = (_field(row, key, where) for key in ("prompt", "test", "entry_point"))
        return Exercise(
            f"{INSTRUCTION}\n\n```python\n{prompt.strip()}\n```", prompt, f"{test}\ncheck({entry})"
        )
    asked = "text" if "text" in row else "prompt"
    tests = row.get("test_list")
    written = isinstance(tests, list) and tests and all(isinstance(one, str) for one in tests)
    if isinstance(row.get(asked), str) and isinstance(tests, list) and written:
        listed = text_of("\n".join(tests), f"{where}: field `test_list`")
        text = _field(row, asked, where)
        question = f"{INSTRUCTION}\n\n{text}\nIt must pass these tests:\n{listed}"
        return Exercise(question, "", listed)
    raise UsageError(f"{where}: not a code task", f"each line: {FORMAT}")


def _field(row: Mapping[str, Any], key: str, where: str) -> str:
    return text_of(row[key], f"{where}: field `{key}`")


def code_of(exercise: Exercise, text: str) -> str:
    """The code of a model's answer, which the tests then use.

    It is what the tests need of a fenced block, or without any block the answer itself, cut off
    where it leaves the function. Of several blocks it is the one that defines what the tests name,
    else the last that says it is Python, else the last. Code that continues `begun` is put after
    it.
    """
    _, _, reply = text.rpartition("</think>")
    blocks = fenced_blocks(reply)
    if blocks:
        code = _chosen(blocks, exercise.tests).code
        if exercise.begun and f"def {_name(exercise.begun)}" not in code:
            return f"{exercise.begun}{code}"
        return f"{_before_function(exercise.begun)}{needed_code(code, exercise.tests)}"
    ends: list[int] = []
    if exercise.begun:
        ends = [at for stop in AFTER_FUNCTION if (at := reply.find(stop)) >= 0]
    return f"{exercise.begun}{reply[: min(ends, default=len(reply))]}"


def _chosen(blocks: Sequence[Block], tests: str) -> Block:
    """The block with the solution, as `code_of` says."""
    wanted = wanted_names(tests)

    def rank(at: int) -> tuple[int, bool, int]:
        names = len(wanted & defined_names(blocks[at].code))
        return names, names > 0 or blocks[at].is_python, at

    return blocks[max(range(len(blocks)), key=rank)]


def judge(exercise: Exercise, text: str) -> ProgramResult:
    """Run the code of a model's answer and then the tests, in the sandbox."""
    code = code_of(exercise, text)
    return run_program(code, SECONDS, exercise.tests, _before_function(exercise.begun))


def _name(code: str) -> str:
    """The name of the last function in this code, which is the one to complete."""
    names = re.findall(r"^def (\w+)", code, re.MULTILINE)
    return names[-1] if names else ""


def _before_function(code: str) -> str:
    """What stands before the function to complete: imports, and functions that the tests may use.

    An answer that repeats them defines them again, which does no harm.
    """
    starts = [found.start() for found in re.finditer(r"^(?:@|def )", code, re.MULTILINE)]
    return code[: starts[-1]] if starts else ""


def solve_exercises(
    writer: Writer,
    label: str,
    exercises: Sequence[Exercise],
    limit: int,
    max_new_tokens: int,
    workers: int,
) -> tuple[list[Answer], str]:
    """Let the model solve all exercises, and run each program with its tests in the sandbox.

    Args:
        writer: the model.
        label: name of the task.
        exercises: the exercises.
        limit: the most exercises to ask.
        max_new_tokens: the most tokens of an answer.
        workers: how many programs run at the same time.

    Returns:
        The answers, and what confined the programs (`ProgramResult.confinement`).

    Raises:
        UsageError: there are fewer than 2 exercises.
    """
    asked = exercises[:limit]
    if len(asked) < 2:
        raise UsageError(f"{label}: fewer than 2 exercises", "give a file with more rows")
    opening = OPENING if writer.opens else ""
    stops = CLOSING if opening else ()
    if not writer.chats and all(e.begun for e in asked):
        stops = AFTER_FUNCTION
    prompts = [
        TaskPrompt(frame(e.question, ()).turns, e.begun or f'"""{e.question}"""\n', opening)
        for e in asked
    ]
    written = writer.write(prompts, max_new_tokens, stops)
    texts = [opening + one.text for one in written]
    outcomes = _judge_all(asked, texts, workers)
    answers = [
        Answer(label, exercise.question, exercise.tests, text, outcome.passed, one.cut_off)
        for exercise, text, outcome, one in zip(asked, texts, outcomes, written, strict=True)
    ]
    return answers, "; ".join(dict.fromkeys(outcome.confinement for outcome in outcomes))


def _judge_all(
    exercises: Sequence[Exercise], texts: Sequence[str], workers: int
) -> list[ProgramResult]:
    """Judge answers, several at the same time."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(judge, exercises, texts))
