"""Writes a first recipe for a model, a device and a goal: commented YAML, to be changed by hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent

from ..benchmarks.llama_cpp import can_measure
from ..checkpoints.config import BUILTIN_MODEL, model_path, resolve
from ..data.sources import Source
from ..documents import parse_yaml, to_yaml
from ..models import FORMATS, PORTABLE
from ..steps.options import AUTO, PROMPTS, REASONING
from ..steps.state import checkpoint_state
from ..targets import load_target
from .format_choice import recommended_route
from .goals import (
    FILE,
    GOALS,
    INT4_STEPS,
    LATER_EXPORT,
    MADE_BY,
    MEASURED_EXPORT,
    QUANTIZE,
    QUANTIZED,
    Goal,
    GoalName,
)
from .recipe import Recipe

__all__ = ["Draft", "suited"]

MARGIN = 1.05
"""For what the predicted size leaves out: zero points and headers."""
PLAIN = re.compile(r"[A-Za-z0-9/._~-][A-Za-z0-9/._~:@+-]*")
"""Texts that YAML needs no quotes for, in any place."""


@dataclass(frozen=True)
class Draft:
    """The answers from which a recipe is made.

    Attributes:
        model: directory, hub id or built-in model.
        target: name or profile of a device.
        goal: one of `GOALS`.
        data: SOURCE of the user's text; empty: text that comes with edgewright.
        format: of the export.
        method: that quantizes to 4 bits, if the goal does.
        least_size: share of the bytes below which the goal cannot get this model.
        exports: whether the recipe exports; else the user does, after it.
    """

    model: str
    target: str
    goal: GoalName
    data: str = ""
    format: str = PORTABLE
    method: str = FORMATS[PORTABLE].int4_method
    least_size: float = 0.0
    exports: bool = True

    @property
    def name(self) -> str:
        """Name of the recipe: that of the model, with the goal."""
        last = Path(self.model.removeprefix("builtin:").partition("@")[0]).name
        short = re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-._")
        return f"{short or 'model'}-{self.goal}"

    @property
    def recipe(self) -> Recipe:
        """The recipe that the text describes.

        Raises:
            ValidationError: an answer cannot be used.
        """
        return Recipe.model_validate(parse_yaml(self.text(FILE), FILE, "")[1])

    def text(self, file: str) -> str:
        """The recipe as YAML.

        Args:
            file: its name, for the commands in it.
        """
        goal = GOALS[self.goal]
        return "\n".join(
            [
                f"{MADE_BY} for the goal `{self.goal}`:",
                f"# {goal.summary}.",
                f"#   edgewright plan {file}   what it needs here, and what the device will say",
                f"#   edgewright run {file}    all steps, measured; again: resumes",
                "# All options: docs/reference.md, or `edgewright recipe schema`.",
                f"name: {_scalar(self.name)}",
                f"model: {_scalar(self.model)}",
                f"target: {_scalar(self.target)}",
                "seed: 0",
                "",
                self._calibration(),
                self._evaluation(),
                "steps:",
                indent(self._steps(goal), "  ")
                + indent(self._export(goal), "  ")
                + self._gate(goal),
            ]
        )

    @property
    def _builtin(self) -> bool:
        return self.model == BUILTIN_MODEL

    @property
    def _text(self) -> str:
        """The text to train and to measure on."""
        return self.data or (REASONING if self._builtin else PROMPTS)

    def _steps(self, goal: Goal) -> str:
        """The steps before the export."""
        steps = goal.steps.replace(QUANTIZED, INT4_STEPS[self.method])
        return steps.replace("DATA", _scalar(self._text))

    def _export(self, goal: Goal) -> str:
        """The step that exports, or that it comes after the run."""
        format = FORMATS[self.format]
        text = MEASURED_EXPORT if self.exports else LATER_EXPORT
        words = {"FORMAT": format.name, "SUMMARY": format.description, "PRECISION": goal.precision}
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    def _calibration(self) -> str:
        own = "the model's own answers to built-in prompts"
        why = "" if self.data else f" # {'its task' if self._builtin else own}"
        source = f"{_scalar(self.data or AUTO)}{why}"
        return f"calibration:\n  source: {source}\n  samples: 128\n  seq_len: 512\n"

    def _evaluation(self) -> str:
        tasks = (
            "  tasks: [reasoning]\n  limit: 200\n  max_new_tokens: 144\n"
            if self._builtin
            else "  # tasks: [qa:questions.jsonl] # question and answer in each line; judges best\n"
        )
        note = " # better: text that no step has seen" if self.data else ""
        return (
            f"evaluate: # after every step\n{tasks}"
            f"  perplexity:\n    - {_scalar(self._text)}{note}\n  windows: 64\n  seq_len: 256\n"
        )

    def _gate(self, goal: Goal) -> str:
        metric = _scalar(f"perplexity/{Source.parse(self._text).label}")
        limit = (
            f"    accuracy/reasoning: {{min_ratio: {goal.accuracy}}}\n"
            if self._builtin
            else f"    {metric}: {{max_ratio: {goal.perplexity}}}\n"
        )
        return (
            "gate: # the exit code is 5 if the last step breaks a limit\n"
            f"  candidate: {'export' if FORMATS[self.format].gives_logits else QUANTIZE}\n"
            f"  baseline: baseline\n  limits:\n{limit}"
            f"    size_bytes: {{max_ratio: {max(goal.size, self.least_size)}}}\n"
        )


def suited(draft: Draft) -> Draft:
    """A draft with what follows from its model and its device: the format, and the least size.

    The exporter of some formats rounds the weights itself, so that no step before it can be
    measured. The portable format is taken instead.

    Raises:
        UsageError: there is no such model or device.
    """
    precision = GOALS[draft.goal].precision
    whole = checkpoint_state(resolve(model_path(draft.model), config_only=True))
    route = recommended_route(whole, precision, load_target(draft.target))
    if precision in FORMATS[route.format].rounds:
        route = recommended_route(whole, precision, None)
    measured = route.artifact if FORMATS[route.format].gives_logits else route.checkpoint
    possible = MARGIN * measured.weight_bytes / whole.weight_bytes
    least_size = math.ceil(100 * possible) / 100
    # Other methods than these are those of the goal itself.
    method = route.method if route.method in INT4_STEPS else draft.method
    exports = can_measure(route.format)
    return replace(
        draft, format=route.format, method=method, least_size=least_size, exports=exports
    )


def _scalar(text: str) -> str:
    """A text as a value in YAML."""
    is_text = PLAIN.fullmatch(text) and to_yaml(text).startswith(text)  # no number, no `null`
    return text if is_text else json.dumps(text)
