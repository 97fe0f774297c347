"""Act before a given training step: interrupt it, or look at the objective."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from edgewright.compress.distill.prepared_objective import PreparedObjective

__all__ = ["before_step", "interrupt"]


@contextmanager
def before_step(number: int, act: Callable[[PreparedObjective], None]) -> Iterator[None]:
    """Call `act` before the step of this number, counted over all stages from 0."""
    step = PreparedObjective.step
    seen = iter(range(10_000))

    def acting(self: PreparedObjective, index: int, batch: Tensor) -> float:
        if next(seen) == number:
            act(self)
        return step(self, index, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedObjective, "step", acting)
        yield


def interrupt(_: PreparedObjective) -> None:
    """Interrupt the run, as Ctrl-C does."""
    raise KeyboardInterrupt
