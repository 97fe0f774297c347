"""The last act of pruning: what was written computes what it should, as stock transformers loads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.streaming import ROWS
from ...errors import EdgewrightError
from ...models import Architecture

__all__ = ["TOLERANCE", "difference", "logits_of", "probe_of", "prove", "stock_logits"]

TOLERANCE = 1e-4
"""Largest allowed difference between the logits of what was written and those expected, relative to the largest logit."""
MIXTURE_ROWS, MIXTURE_TOKENS = 4, 128


def probe_of(rows: list[Tensor], architecture: Architecture) -> Tensor:
    """The ids [rows, seq] to compare on: the first of the calibration rows (int64 [2, seq]), or of a mixture of experts several.

    Where two experts are as good as tied for a token's last place, rounding decides, and the whole model may decide
    otherwise than the cut one: about once in 50,000 choices in a random model. Then that row differs from there on. A wrong
    cut would show in every row, so one short row that agrees is enough.
    """
    if architecture.experts is None:
        return rows[0][:1]
    return torch.cat([row[:1, :MIXTURE_TOKENS] for row in rows[:MIXTURE_ROWS]])


def difference(made: Path, got: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest difference between logits [rows, seq, part], given in equal parts, relative to the largest one expected.

    Of several rows it is that of the one that agrees best; see `probe_of`.

    Raises:
        EdgewrightError: they differ by more than rounding.
    """
    gap = largest = torch.zeros(1)
    for wanted, logits in zip(expected, got, strict=True):
        gap = torch.maximum(gap, (logits - wanted).abs().flatten(1).amax(1).cpu())
        largest = torch.maximum(largest, wanted.abs().flatten(1).amax(1).cpu())
    relative = float((gap / largest.clamp_min(1e-6)).nan_to_num(math.inf).min())
    if not relative <= TOLERANCE:
        raise EdgewrightError(
            f"{made}: the pruned model differs from the masked original by {relative:.2e} (limit {TOLERANCE:.0e})",
            "this is a bug in edgewright: please report it with the model's config.json",
        )
    return relative


def prove(made: Path, probe: Tensor, expected: Tensor) -> float:
    """Reload with stock transformers and compare logits on ids [rows, seq]; see `difference`."""
    return difference(made, stock_logits(made, probe, str(probe.device)), expected.split(ROWS, -1))


def stock_logits(made: Path, probe: Tensor, device: str) -> Iterator[Tensor]:
    """Logits of a checkpoint as anybody would load it, in parts of the vocabulary."""
    from transformers import AutoModelForCausalLM  # late: slow to import

    model: Any = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    yield from logits_of(model.to(device).eval(), probe.to(device)).split(ROWS, -1)


def logits_of(model: Any, probe: Tensor) -> Tensor:
    """Logits of a loaded model on ids [rows, seq]."""
    with torch.no_grad():
        return model(input_ids=probe, use_cache=False).logits
