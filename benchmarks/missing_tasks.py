"""What to say where text was scored and no task."""

from __future__ import annotations

from collections.abc import Iterable

from .metrics import find

__all__ = ["missing_tasks"]


def missing_tasks(names: Iterable[str]) -> list[str]:
    """A warning if text was scored, but no task: a small rise of perplexity can hide damage."""
    patterns = {metric.pattern for name in names if (metric := find(name))}
    scored = "perplexity/<data>" in patterns
    if not scored or any(pattern.startswith(("accuracy/", "lm_eval/")) for pattern in patterns):
        return []
    return [
        "task accuracy was not measured, and perplexity can hide damage: add --tasks, such as "
        "qa:FILE or code:FILE (in a recipe: evaluate.tasks)"
    ]
