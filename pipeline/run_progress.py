"""Where a run is: which step of how many, the time so far, and an estimate of what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["RunProgress", "duration"]


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


class RunProgress:
    """Counts the steps of a run, and learns from them how good the plan's times are.

    Args:
        names: of all steps, in order.
        predicted: seconds that the plan gives for each step; measuring a step comes on top.
        clock: gives seconds.
    """

    def __init__(
        self,
        names: Sequence[str],
        predicted: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = list(names)
        self._predicted = predicted
        self._clock = clock
        self._begun = clock()
        self._step_begun = self._begun
        self._made_predicted = 0.0
        self._made_seconds = 0.0

    def heading(self, name: str) -> str:
        """What to say when a step begins: `step 3 of 6, 4 min so far, about 5 min left`."""
        self._step_begun = self._clock()
        text = f"step {self._names.index(name) + 1} of {len(self._names)}"
        so_far = self._step_begun - self._begun
        if so_far >= 1:
            text += f", {duration(so_far)} so far"
        left = self._left(name)
        return f"{text}, about {duration(left)} left" if left else text

    def end(self, name: str, *, made: bool) -> None:
        """Note that a step is finished; only one that was made says something about the others."""
        if made and self._predicted.get(name):
            self._made_predicted += self._predicted[name]
            self._made_seconds += self._clock() - self._step_begun

    def _left(self, name: str) -> float:
        """Seconds for this step and those after it; 0 where none was made yet."""
        if not self._made_predicted:
            return 0.0
        rest = self._names[self._names.index(name) :]
        predicted = sum(self._predicted.get(one, 0.0) for one in rest)
        return predicted * self._made_seconds / self._made_predicted
