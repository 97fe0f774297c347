"""The last act of pruning: what was written computes what it should, as stock transformers loads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EdgewrightError
from ...streaming import ROWS

__all__ = ["TOLERANCE", "difference", "logits_of", "prove", "stock_logits"]

TOLERANCE = 1e-4
"""Largest allowed difference between the logits of what was written and those expected, relative to the largest logit."""


def difference(made: Path, got: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest difference between logits, given in equal parts, relative to the largest one expected.

    Raises:
        EdgewrightError: they differ by more than rounding.
    """
    gap = largest = 0.0
    for wanted, logits in zip(expected, got, strict=True):
        gap = max(gap, float((logits - wanted).abs().max()))
        largest = max(largest, float(wanted.abs().max()))
    relative = gap / max(largest, 1e-6)
    if not relative <= TOLERANCE:
        raise EdgewrightError(
            f"{made}: the pruned model differs from the masked original by {relative:.2e} (limit {TOLERANCE:.0e})",
            "this is a bug in edgewright: please report it with the model's config.json",
        )
    return relative


def prove(made: Path, probe: Tensor, expected: Tensor) -> float:
    """Reload with stock transformers and compare logits on ids [1, seq]; see `difference`."""
    return difference(made, stock_logits(made, probe, str(probe.device)), expected.split(ROWS, -1))


def stock_logits(made: Path, probe: Tensor, device: str) -> Iterator[Tensor]:
    """Logits of a checkpoint as anybody would load it, in parts of the vocabulary."""
    from transformers import AutoModelForCausalLM  # late: slow to import

    model: Any = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    yield from logits_of(model.to(device).eval(), probe.to(device)).split(ROWS, -1)


def logits_of(model: Any, probe: Tensor) -> Tensor:
    """Logits of a loaded model on ids [1, seq]."""
    with torch.no_grad():
        return model(input_ids=probe, use_cache=False).logits
