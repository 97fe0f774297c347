"""What can be measured of an artifact whose runtime gives no logits of whole texts."""

from __future__ import annotations

from ..errors import UsageError
from .options import EvaluateOptions
from .tasks.kinds import WRITTEN
from .tasks.task import Task

__all__ = ["measured_without_logits", "needs_logits", "require_no_logits"]


def needs_logits(task: Task) -> bool:
    """Whether a task scores given texts, instead of answers that the model writes."""
    return task.kind not in WRITTEN


def _texts(options: EvaluateOptions) -> list[str]:
    """What is measured with the logits of whole texts: tasks and perplexities, as given."""
    tasks = [name for name in options.tasks if needs_logits(Task.parse(name))]
    return [*tasks, *(f"perplexity of {source}" for source in options.perplexity)]


def measured_without_logits(options: EvaluateOptions) -> tuple[EvaluateOptions, list[str]]:
    """The part of a measurement that needs no logits of whole texts, and a note of the rest.

    Args:
        options: what is asked for.
    """
    left_out = _texts(options)
    if not left_out:
        return options, []
    tasks = tuple(name for name in options.tasks if not needs_logits(Task.parse(name)))
    note = f"not measured, as llama.cpp gives no logits of whole texts: {', '.join(left_out)}"
    return options.model_copy(update={"tasks": tasks, "perplexity": ()}), [note]


def require_no_logits(name: str, options: EvaluateOptions) -> None:
    """Refuse a measurement of a GGUF artifact that needs the logits of whole texts.

    Raises:
        UsageError: it does.
    """
    if left_out := _texts(options):
        raise UsageError(
            f"{name}: llama.cpp gives no logits of whole texts, which is what this needs: "
            f"{', '.join(left_out)}",
            "leave it out, or measure it of the checkpoint that was exported",
        )
