"""Refuses work that needs more memory than is free, before it begins, and says what would fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..checkpoints.free_memory import FreeMemory, memory_left
from ..errors import Refused
from .state import State
from .step import PlanContext, Step

__all__ = [
    "UNCHECKED",
    "Alternative",
    "alternatives",
    "available",
    "fits",
    "require_memory",
    "step_bytes",
]

UNCHECKED = "--no-memory-check (in a recipe: `memory_check: false`) starts anyway"
"""Advice for those who know better than the prediction."""


@dataclass(frozen=True)
class Alternative:
    """Another way to do some work, and the memory that it is predicted to need."""

    advice: str
    """What to type."""
    bytes: float


def available(device: str) -> FreeMemory | None:
    """The memory that work on a device can take there; None: unknown."""
    if device != "cuda":
        return memory_left()
    import torch  # late: torch takes seconds

    return FreeMemory(int(torch.cuda.mem_get_info()[0]), "the GPU")


def fits(needed: float, device: str = "cpu") -> bool:
    """Whether so many bytes are free on a device, or may be: nobody says how many are."""
    free = available(device)
    return free is None or needed <= free.bytes


def require_memory(
    what: str, needed: float, ways: Iterable[Alternative] = (), device: str = "cpu"
) -> None:
    """Stop if work needs more memory than is free.

    Args:
        what: the work, for the message.
        needed: bytes that it is predicted to take, beyond what the process holds now.
        ways: other ways to do it; read only if this one does not fit.
        device: where it is done.

    Raises:
        Refused: saying what is needed, what is free, and which of the other ways fit.
    """
    free = available(device)
    if free is None or needed <= free.bytes:
        return
    fitting = [f"{way.advice} ({_size(way.bytes)})" for way in ways if way.bytes <= free.bytes]
    advice = f"what fits: {', or '.join(fitting)}" if fitting else "use a machine with more memory"
    raise Refused(
        f"{what} needs {_size(needed)} of memory, as predicted, and {_size(free.bytes)} are free "
        f"here (limited by {free.limit})",
        f"{advice}; {UNCHECKED}",
    )


def step_bytes(step: Step[Any], options: Any, source: State, plan: PlanContext) -> float:
    """The memory that a step is predicted to take, in bytes.

    Args:
        step: the step.
        options: its settled options.
        source: state of the model that it reads.
        plan: other models, calibration and limits.
    """
    return step.cost(options, source, step.after(options, source, plan), plan).ram_bytes


def alternatives(
    step: Step[Any], options: Any, source: State, plan: PlanContext
) -> Iterator[Alternative]:
    """Each change of a step's settings that saves memory, and then all of them together."""
    advice: list[str] = []
    now = step_bytes(step, options, source, plan)
    for change in step.smaller(options, plan):
        alone = step_bytes(step, *change.applied(options, source, plan))
        if alone < now:
            yield Alternative(change.advice, alone)
    together = (options, source, plan)
    for change in step.smaller(options, plan):
        before = step_bytes(step, *together)
        changed = change.applied(*together)
        if step_bytes(step, *changed) < before:
            advice.append(change.advice)
            together = changed
    if len(advice) > 1:
        yield Alternative(" ".join(advice), step_bytes(step, *together))


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
