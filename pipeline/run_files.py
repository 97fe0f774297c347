"""What a run writes into its directory, beside the directories of its steps. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import get_args

from ..checkpoints.outputs import LEDGER, RECORD, REPORTS
from ..compress.distill.options import LAST_GOOD, Tracker
from ..steps.options import TRACES

__all__ = ["CURVES", "FILES", "SAMPLES", "TRACES_FILE", "why_taken"]

SAMPLES = "samples"
"""The directory of samples and answers."""
TRACES_FILE = f"{TRACES}.jsonl"
FILES = (LEDGER, *REPORTS, TRACES_FILE, f"{TRACES}{RECORD}")
CURVES = re.compile(rf"(.+)\.({'|'.join(get_args(Tracker))})")
"""The directory of the curves of a step."""


def why_taken(name: str, steps: Collection[str]) -> str:
    """Why a step cannot have this name, because a run writes something else there; or empty.

    Args:
        name: of the step.
        steps: the names of all steps.
    """
    if name in (*FILES, SAMPLES):
        return "the run itself writes it"
    beside, _, ending = name.rpartition(".")
    if beside in steps and ending in (*get_args(Tracker), LAST_GOOD):
        return f"step `{beside}` may write it"
    return ""
