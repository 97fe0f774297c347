"""Options of a sweep: which recipe options vary, which metrics count, and when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ..errors import UsageError
from .sweep_objectives import Objective

__all__ = ["SweepOptions", "parse_vary"]

EXAMPLE = "write --vary steps.quantize.bits=4,8"


@dataclass(frozen=True)
class SweepOptions:
    """What is varied, what is optimized, and when to stop."""

    vary: Mapping[str, Sequence[Any]]
    objectives: tuple[Objective, ...] = ()
    """Empty: the first accuracy (or perplexity), decode speed, and size."""
    trials: int = 20
    minutes: float | None = None
    """No trial begins after this time."""
    seed: int = 0


def parse_vary(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Read `KEY=a,b,c` strings; keys are written as in --set, values as in YAML.

    Raises:
        UsageError: no values, or a key given twice.
    """
    vary: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        try:
            values = yaml.safe_load(f"[{listed}]")
        except yaml.YAMLError as error:
            raise UsageError(f"--vary {text}: the values are not valid YAML", EXAMPLE) from error
        if not key or not values:
            raise UsageError(f"--vary {text}: not KEY=VALUE,VALUE", EXAMPLE)
        if key in vary:
            raise UsageError(f"--vary {key} is given twice", "list all of its values in one")
        vary[key] = values
    if not vary:
        raise UsageError("nothing to vary", "give --vary KEY=VALUE,VALUE at least once")
    return vary
