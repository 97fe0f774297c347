"""TASK strings: what a model is asked, and how its answers are judged.

- `reasoning`: the built-in problems of the embedded model, with reasoning-gym's verifiers
- `gym:NAME`: any generator of reasoning-gym
- `qa:FILE`: questions and answers in JSONL, as GSM8K has them; math-verify compares
- `choice:FILE`: multiple choice in JSONL, by likelihood
- `code:FILE`: HumanEval's or MBPP's JSONL; runs what the model writes, in a sandbox, where `allow_code` says so
- `lm-eval:NAME` or `lm-eval:FILE.yaml`: a task of lm-eval, or one's own
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...data.reasoning import HELD_OUT_SEED, Problem, held_out
from ...data.sources import Source
from ...errors import EdgewrightError, UsageError
from .accuracy import Answer, exact_match
from .backends import Backend

__all__ = ["Outcome", "Task", "TaskSettings", "run_task"]

BUILTIN = "reasoning"
FILES = ("qa", "choice", "code")
KINDS = f"{BUILTIN}, gym:NAME, qa:FILE, choice:FILE, code:FILE, lm-eval:NAME or lm-eval:FILE.yaml"


@dataclass(frozen=True)
class TaskSettings:
    """What a task may cost and use."""

    limit: int
    """Problems at most."""
    max_new_tokens: int
    shots: int | None = None
    """Worked examples shown; None is the task's own choice, which is none but for lm-eval."""
    allow_code: bool = False
    threads: int = 1


@dataclass(frozen=True)
class Outcome:
    """The answers by the label that their accuracy goes under, metrics beyond that, and what else makes the result comparable."""

    answers: dict[str, list[Answer]]
    metrics: dict[str, float] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A parsed TASK string."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Task:
        """Split a TASK string and check that what it names is there.

        Raises:
            UsageError: unknown kind, or a file that does not exist.
        """
        if text == BUILTIN:
            return cls(BUILTIN, BUILTIN)
        kind, _, name = text.partition(":")
        if kind not in ("gym", "lm-eval", *FILES) or not name:
            raise UsageError(f"{text}: no such task", f"tasks: {KINDS}")
        if kind in FILES and not Path(name).is_file():
            raise UsageError(f"{text}: no such file: {name}", "give the path of a JSONL file")
        return cls(kind, name)

    @property
    def label(self) -> str:
        """The short name that metrics carry."""
        return Path(self.name).stem if self.kind in FILES else self.name

    def fingerprint(self) -> str:
        """A hash of the task's file, or of its name, whose problems the code version covers."""
        file = Path(self.name)
        return hashlib.sha256(
            file.read_bytes() if file.is_file() else f"{self.kind}:{self.name}".encode()
        ).hexdigest()


def run_task(
    task: Task, backend: Backend, tokenizer: Any, path: Path, settings: TaskSettings
) -> Outcome:
    """Ask a model what a task asks.

    Args:
        task: which one.
        backend: the loaded model.
        tokenizer: its tokenizer, padding on the left.
        path: its directory.
        settings: how much, and what is allowed.

    Raises:
        UsageError: the file is malformed or too short, or a code task was not allowed.
        EdgewrightError: an extra is not installed.
    """
    if task.kind in (BUILTIN, "gym"):
        problems = (
            held_out(settings.limit)
            if task.kind == BUILTIN
            else _generated(task.name, settings.limit)
        )
        return Outcome(
            {
                task.label: exact_match(
                    backend, tokenizer, problems, settings.max_new_tokens, _graded
                )
            }
        )
    runner = {"qa": _questions, "choice": _choices, "code": _programs, "lm-eval": _harness}[
        task.kind
    ]
    return runner(task, backend, tokenizer, path, settings)


def _gym() -> Any:
    try:
        import reasoning_gym  # late: an extra, and it pulls in a hundred generators
    except ImportError as error:
        raise EdgewrightError(
            "generated tasks need reasoning-gym, which is not installed",
            "pip install 'edgewright[eval]'",
        ) from error
    return reasoning_gym


def _generated(name: str, count: int) -> Sequence[Problem]:
    try:
        dataset = _gym().create_dataset(name, seed=HELD_OUT_SEED, size=count)
    except ValueError as error:
        raise UsageError(
            f"gym:{name}: reasoning-gym has no such generator",
            "e.g. gym:chain_sum, gym:gsm_symbolic",
        ) from error
    return [
        Problem(name, entry["question"].strip(), "", str(entry["answer"]), entry)
        for entry in dataset
    ]


def _graded(problem: Problem, text: str) -> bool:
    """Whether reasoning-gym's own verifier gives full marks to what stands behind the thought, or to the extracted answer."""
    from ...data.reasoning import is_correct
    from .questions import extract_answer

    if is_correct(problem, text):
        return True
    if problem.trace:  # the built-in problems are answered in their own format, or not at all
        return False
    return (
        float(_gym().get_score_answer_fn(problem.task)(extract_answer(text), problem.entry)) == 1.0
    )


def _questions(
    task: Task, backend: Backend, tokenizer: Any, path: Path, settings: TaskSettings
) -> Outcome:
    from .questions import answer_questions, read_pairs

    pairs = read_pairs(Source("jsonl", task.name))
    shots = settings.shots or 0
    answers = answer_questions(
        backend, tokenizer, task.label, pairs, shots, settings.limit, settings.max_new_tokens
    )
    return Outcome({task.label: answers}, context={f"shots/{task.label}": shots})


def _choices(
    task: Task, backend: Backend, tokenizer: Any, path: Path, settings: TaskSettings
) -> Outcome:
    from .multiple_choice import choose, read_choices

    shots = settings.shots or 0
    plain, by_byte = choose(
        backend, tokenizer, task.label, read_choices(Path(task.name)), shots, settings.limit
    )
    share = sum(answer.correct for answer in by_byte) / len(by_byte)
    return Outcome(
        {task.label: plain},
        {f"accuracy_by_byte/{task.label}": share},
        {f"shots/{task.label}": shots},
    )


def _programs(
    task: Task, backend: Backend, tokenizer: Any, path: Path, settings: TaskSettings
) -> Outcome:
    from .programs import read_exercises, write_programs
    from .sandbox import protections

    if not settings.allow_code:
        raise UsageError(
            f"code:{task.name}: runs programs that the model writes, in a sandbox that keeps off accidents, not attackers",
            "add --allow-code (in a recipe: allow_code: true), on a machine that may be lost",
        )
    answers = write_programs(
        backend,
        tokenizer,
        task.label,
        read_exercises(Path(task.name)),
        settings.limit,
        settings.max_new_tokens,
        settings.threads,
    )
    return Outcome(
        {task.label: answers}, context={f"sandbox/{task.label}": ", ".join(protections())}
    )


def _harness(
    task: Task, backend: Backend, tokenizer: Any, path: Path, settings: TaskSettings
) -> Outcome:
    try:
        from .lm_eval_harness import run_harness  # late: an extra, and it takes seconds
    except ImportError as error:
        raise EdgewrightError(
            f"lm-eval:{task.name} needs lm-eval: {error}", "pip install 'edgewright[eval]'"
        ) from error
    answers, metrics, conditions = run_harness(
        backend, path, task.name, settings.shots, settings.limit
    )
    asked = {f"shots/{name}": settings.shots for name in answers}
    return Outcome(answers, metrics, conditions | asked)
