"""The proof that a cut model computes what the masked original computes, by stock transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import EdgewrightError
from ...models import Shape

__all__ = ["TOLERANCE", "probes_from", "prove"]

TOLERANCE = 1e-4
"""Largest allowed difference between pruned and masked logits, relative to the largest logit."""
MIXTURE_ROWS, MIXTURE_TOKENS = 4, 128


def probes_from(rows: list[Tensor], shape: Shape) -> list[Tensor]:
    """The ids [1, seq] to compare on: the first of the calibration rows (int64 [2, seq]), or of a mixture of experts several.

    Where two experts are as good as tied for a token's last place, rounding decides, and the whole model may decide
    otherwise than the cut one: about once in 50,000 choices in a random model. Then that row differs from there on. A wrong
    cut would show in every row, so one short row that agrees is enough.
    """
    if shape.experts is None:
        return [rows[0][:1]]
    return [row[:1, :MIXTURE_TOKENS] for row in rows[:MIXTURE_ROWS]]


def prove(out: Path, probes: list[Tensor], expected: list[Tensor]) -> float:
    """Reload with stock transformers and compare logits with those of the masked original on the row that agrees best.

    Args:
        out: the cut checkpoint.
        probes: ids [1, seq], where they are to be computed.
        expected: logits [1, seq, vocabulary] of the masked original for each, on the CPU.

    Returns:
        The largest difference relative to the largest logit.

    Raises:
        EdgewrightError: it is above `TOLERANCE`.
    """
    from transformers import AutoModelForCausalLM  # late: slow to import

    reloaded: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    reloaded.to(probes[0].device).eval()
    with torch.no_grad():
        got = [reloaded(input_ids=probe, use_cache=False).logits.cpu() for probe in probes]
    gaps = [float((g - e).abs().max() / e.abs().max().clamp_min(1e-6)) for g, e in zip(got, expected, strict=True)]
    difference = min(gaps, key=lambda gap: (gap != gap, gap))  # NaN is no agreement
    if not difference <= TOLERANCE:
        raise EdgewrightError(
            f"{out}: the pruned model differs from the masked original by {difference:.2e} (limit {TOLERANCE:.0e})",
            "this is a bug in edgewright: please report it with the model's config.json",
        )
    return difference
