"""Generated arithmetic and word problems with solution steps: the data of the demo model.

`problem_generators.py` has the problems of reasoning-gym. The solution steps ("traces") are written
here. Evaluation problems come from seeds below `TRAIN_SEED`, training problems from seeds above it.
A training problem whose question is also in the held-out set is dropped, because small problem
spaces repeat questions under different seeds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .problem_generators import GENERATORS, LEGS, is_answer

__all__ = [
    "TASKS",
    "Problem",
    "extract_answer",
    "held_out",
    "held_out_questions",
    "is_correct",
    "training_problems",
]

TRAIN_SEED = 1_000_000
HELD_OUT_SEED = 500_000
HELD_OUT = 256
"""Number of problems per task in the held-out set. An evaluation uses the first ones."""


@dataclass(frozen=True)
class Problem:
    """A generated problem: question, solution steps, answer, and the data for the verifier."""

    task: str
    question: str
    trace: str
    answer: str
    entry: dict[str, Any]

    @property
    def completion(self) -> str:
        """The text to write after the prompt, which ends with `<think>` and a newline."""
        return f"{self.trace}\n</think>\n{self.answer}"


def _sum(total: int, term: str) -> str:
    """Add a signed term digit by digit, highest first, so that no step carries more than one digit.

    (145, "-38") gives 145-38=115-8=107. Adding zero is not a step: (4, "-0") gives 4-0.
    """
    sign = term[0]
    digits = term[1:]
    written = [f"{total}{term}"]
    for i, digit in enumerate(digits):
        rest = digits[i + 1 :].lstrip("0")
        if digit != "0":
            total += int(sign + digit) * 10 ** (len(digits) - i - 1)
            written.append(f"{total}{sign}{rest}" if rest else str(total))
    return "=".join(written)


def _chain_sum(entry: dict[str, Any]) -> str:
    first, *rest = re.findall(r"(?:^|[-+] )\d+", entry["metadata"]["expression"])
    total = int(first)
    lines: list[str] = []
    for term in (t.replace(" ", "") for t in rest):
        lines.append(_sum(total, term))
        total += int(term)
    return "\n".join(lines)


def _product(a: int, digit: int) -> str:
    """Multiply a number of two digits by one digit: 65*6=360+30=390."""
    tens = a // 10 * 10 * digit
    ones = a % 10 * digit
    return f"{a}*{digit}={tens}+{ones}={a * digit}" if tens and ones else f"{a}*{digit}={a * digit}"


def _products(entry: dict[str, Any]) -> str:
    a, b = (int(v) for v in entry["metadata"]["expression"].split(" * "))
    tens, ones = divmod(b, 10)
    if not ones:
        return f"{_product(a, tens)}\n{a}*{b}={a * b}"
    return f"{_product(a, tens)}\n{_product(a, ones)}\n{_sum(a * tens * 10, f'+{a * ones}')}"


def _gcd(entry: dict[str, Any]) -> str:
    a, b = sorted(entry["metadata"]["numbers"], reverse=True)
    lines = []
    while b:
        times = f"{a}-{b}*{a // b}=" if a // b > 1 else ""
        lines.append(times + _sum(a, f"-{a - a % b}"))
        a, b = b, a % b
    return "\n".join(lines)


def _leg_counting(entry: dict[str, Any]) -> str:
    total = 0
    lines: list[str] = []
    for animal, count in entry["metadata"]["animals"].items():
        legs = count * LEGS[animal]
        lines.append(
            f"{animal} {count}*{LEGS[animal]}={legs}"
            + (f", {_sum(total, f'+{legs}')}" if legs and total else "")
        )
        total += legs
    return "\n".join(lines)


TASKS: dict[str, Callable[[dict[str, Any]], str]] = {
    "chain_sum": _chain_sum,
    "products": _products,
    "gcd": _gcd,
    "leg_counting": _leg_counting,
}
"""Task name -> trace writer."""


def _problems(task: str, seed: int, size: int) -> Iterator[Problem]:
    for index in range(size):
        question, result, metadata = GENERATORS[task](random.Random(seed + index))
        entry = {"question": question, "answer": str(result), "metadata": metadata}
        yield Problem(task, question.strip(), TASKS[task](entry), str(result), entry)


def held_out(count: int, tasks: Sequence[str] = tuple(TASKS)) -> list[Problem]:
    """The first `count` evaluation problems, or all, without repeated questions.

    The tasks take turns.
    """
    streams = [
        _problems(task, HELD_OUT_SEED + index * HELD_OUT, HELD_OUT)
        for index, task in enumerate(TASKS)
        if task in tasks
    ]
    seen: set[str] = set()
    problems: list[Problem] = []
    for row in zip(*streams, strict=True):
        for problem in row:
            if len(problems) == count:
                return problems
            if problem.question not in seen:
                seen.add(problem.question)
                problems.append(problem)
    return problems


def held_out_questions() -> frozenset[str]:
    """All questions of the held-out set, of all tasks. Training must not contain them."""
    return frozenset(p.question for p in held_out(HELD_OUT * len(TASKS), tuple(TASKS)))


def training_problems(seed: int, exclude: frozenset[str], block: int = 512) -> Iterator[Problem]:
    """Endless training problems of all tasks, mixed, without the questions in `exclude`."""
    rng = random.Random(seed)
    start = TRAIN_SEED + seed * 100_000_000
    while True:
        problems = [
            p for i, task in enumerate(TASKS) for p in _problems(task, start + i * block, block)
        ]
        rng.shuffle(problems)
        yield from (p for p in problems if p.question not in exclude)
        start += len(TASKS) * block


def extract_answer(text: str) -> str:
    """The first line after the last `</think>`, or an empty string if there is no `</think>`."""
    _, closed, answer = text.rpartition("</think>")
    return answer.strip().split("\n")[0].strip() if closed else ""


def is_correct(problem: Problem, text: str) -> bool:
    """Whether the extracted answer of a built-in problem is right."""
    return is_answer(problem.task, extract_answer(text), problem.answer)
