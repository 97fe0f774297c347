"""The questions of `edgewright init`: each is asked on a terminal where its flag is not given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..checkpoints.config import BUILTIN_MODEL, model_path, resolve
from ..console import console
from ..data.sources import Source
from ..errors import EdgewrightError, UsageError
from ..pipeline.goals import GOALS
from ..pipeline.recipe_draft import Draft, suited
from ..targets.profile import load_target, target_names
from .init_options import InitOptions

__all__ = ["answered"]

DEVICE = "jetson-orin-nano-8gb"
FLAGS = {
    "model": "--model MODEL",
    "target": "--target NAME",
    "goal": f"--goal {'|'.join(GOALS)}",
}
"""By question, the flag that answers it."""
TRAINED_ON = "this goal trains the model, and needs text of the kind that it must be good at"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        text: what is asked.
        default: the answer to an empty line; empty: there is none.
        check: raises an error of edgewright if an answer cannot be used.
        choices: names and meanings that are listed above the question.
    """

    text: str
    default: str
    check: Callable[[str], object]
    choices: dict[str, str]


def answered(options: InitOptions) -> Draft:
    """The draft of a recipe: what was given as flags, and answers to questions for the rest.

    Raises:
        UsageError: an answer is missing and there is no terminal, or one cannot be used.
    """
    questions = _questions()
    given = {name: getattr(options, name) for name in questions}
    _require_terminal([name for name, value in given.items() if value is None])
    answers: dict[str, Any] = {
        name: _ask(question) if given[name] is None else _checked(question, given[name])
        for name, question in questions.items()
    }
    draft = Draft(**answers)
    data = options.data
    if data is None and draft.model != BUILTIN_MODEL:
        if sys.stdin.isatty():
            data = _ask(_about_data(draft))
        elif GOALS[draft.goal].trains:
            raise UsageError(f"--data is missing: {TRAINED_ON}", "add --data text:FILE")
    if data:
        Source.parse(data).check()
    return suited(Draft(**answers, data=data or ""))


def _require_terminal(missing: list[str]) -> None:
    """Refuse to ask where nobody can answer."""
    if missing and not sys.stdin.isatty():
        raise UsageError(
            f"{', '.join(f'--{name}' for name in missing)} missing, and this is no terminal on "
            "which `init` could ask",
            f"add {' '.join(FLAGS[name] for name in missing)}",
        )


def _checked(question: Question, answer: str) -> str:
    question.check(answer)
    return answer


def _ask(question: Question) -> str:
    """Ask until there is an answer that can be used."""
    for name, meaning in question.choices.items():
        console.print(f"  [bold cyan]{name:<22}[/] {meaning}", highlight=False)
    default = f" \\[{question.default}]" if question.default else ""
    while True:
        line = console.input(f"[bold]{question.text}[/]{default}: ", stream=sys.stdin)
        if not line:
            raise UsageError(
                "the questions were not answered",
                f"give the answers as flags: {' '.join(FLAGS.values())}",
            )
        answer = line.strip() or question.default
        try:
            question.check(answer)
        except EdgewrightError as error:
            console.print(f"  {error}; {error.hint}", highlight=False, markup=False, soft_wrap=True)
            continue
        return answer


def _check_goal(answer: str) -> None:
    if answer not in GOALS:
        raise UsageError(f"`{answer}` is no goal", f"type one of {', '.join(GOALS)}")


def _check_model(answer: str) -> None:
    if not answer:
        raise UsageError("a recipe needs a model", f"for a try: {BUILTIN_MODEL}")
    resolve(model_path(answer), config_only=True)


def _about_data(draft: Draft) -> Question:
    """The question for text, which a goal with training must have."""
    trains = GOALS[draft.goal].trains

    def check(answer: str) -> None:
        if answer:
            Source.parse(answer).check()
        elif trains:
            raise UsageError(TRAINED_ON, "type text:FILE or jsonl:FILE")

    why = "to train on" if trains else "to calibrate on; empty: built-in text"
    return Question(f"Your text, text:FILE or jsonl:FILE ({why})", "", check, {})


def _questions() -> dict[str, Question]:
    """By the flag that answers it, in the order in which they are asked."""
    devices = {name: load_target(name).description for name in target_names()}
    goals = {str(name): goal.summary for name, goal in GOALS.items()}
    return {
        "model": Question("Model: a directory or hub id", BUILTIN_MODEL, _check_model, {}),
        "target": Question("Device", DEVICE, load_target, devices),
        "goal": Question("Goal", "small", _check_goal, goals),
    }
