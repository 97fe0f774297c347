"""Checks a pruned checkpoint: stock transformers loads it, and its logits are those expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.loading import stock_model
from ...checkpoints.streaming import ROWS
from ...errors import EdgewrightError
from ...models import Architecture

__all__ = [
    "TOLERANCE",
    "check_logits",
    "logits_of",
    "probe_of",
    "stock_logits",
    "verify_with_stock",
]

TOLERANCE = 1e-4
"""Largest allowed difference between logits, relative to the largest expected logit."""
MIXTURE_ROWS = 4
MIXTURE_TOKENS = 128


def probe_of(rows: list[Tensor], architecture: Architecture) -> Tensor:
    """The ids [rows, seq] on which two models are compared: the first calibration row.

    A mixture of experts gets several short rows. Two experts may score almost the same for a token,
    and then rounding decides between them. The pruned model may decide differently than the
    original: about once in 50,000 choices in a random model. From there on that row differs. A
    wrong cut would show in every row, so it is enough that one short row agrees.

    Args:
        rows: calibration rows int64 [2, seq].
        architecture: of the original.
    """
    if architecture.experts is None:
        return rows[0][:1]
    return torch.cat([row[:1, :MIXTURE_TOKENS] for row in rows[:MIXTURE_ROWS]])


def check_logits(out: Path, got: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Compare logits: the largest difference, relative to the largest expected logit.

    Of several rows, the one that agrees best counts; see `probe_of`.

    Args:
        out: the pruned checkpoint, for the message.
        got: its logits [rows, seq, part], in parts of the vocabulary.
        expected: those of the masked original, in the same parts.

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
            f"{out}: the pruned model differs from the masked original by {relative:.2e} "
            f"(limit {TOLERANCE:.0e})",
            "this is a bug in edgewright: please report it with the model's config.json",
        )
    return relative


def verify_with_stock(out: Path, probe: Tensor, expected: Tensor) -> float:
    """Load a checkpoint with stock transformers and compare its logits; see `check_logits`.

    Args:
        out: the checkpoint.
        probe: ids [rows, seq].
        expected: logits [rows, seq, vocab].

    Raises:
        EdgewrightError: the logits differ by more than rounding.
    """
    got = stock_logits(out, probe, str(probe.device))
    return check_logits(out, got, expected.split(ROWS, -1))


def stock_logits(out: Path, probe: Tensor, device: str) -> Iterator[Tensor]:
    """Logits on ids [rows, seq] of a checkpoint loaded by stock transformers, in parts."""
    model = stock_model(out)
    yield from logits_of(model.to(device), probe.to(device)).split(ROWS, -1)


def logits_of(model: Any, probe: Tensor) -> Tensor:
    """Logits of a loaded model on ids [rows, seq]."""
    with torch.no_grad():
        return model(input_ids=probe, use_cache=False).logits
