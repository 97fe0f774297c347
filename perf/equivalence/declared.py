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
        "distill-qat*",
        "files.result/config.json",
        "damp_percent says 0.005, the one default of GPTQ's damping, where it said 0.01",
    ),
    Declared(
        "*",
        "*steps.*.output_hash",
        "the provenance of an export has `reference`; the files behind the hash are compared",
    ),
    Declared("export-window-*", "*parity/kl", "the reference is stock transformers: 1e-14 apart"),
)


def declared(job: str, place: str) -> Declared | None:
    """The entry that allows a difference at this place, if there is one."""
    for one in DECLARED:
        if fnmatch.fnmatchcase(job, one.job) and fnmatch.fnmatchcase(place, one.place):
            return one
    return None
