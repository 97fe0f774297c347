"""Changes that are made on purpose. Keep this list as short as possible."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True)
class Declared:
    """A difference that is allowed. `job` and `place` are patterns, `reason` says why."""

    job: str
    place: str
    reason: str


DECLARED = (
    Declared(
        "help-bench",
        "help.options.--seq-len.default",
        "bench and recipes had different defaults, so the gate could not compare their results",
    ),
)


def declared(job: str, place: str) -> Declared | None:
    """The entry that allows a difference at this place, if there is one."""
    for one in DECLARED:
        if fnmatch.fnmatchcase(job, one.job) and fnmatch.fnmatchcase(place, one.place):
            return one
    return None
