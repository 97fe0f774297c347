"""Hold out rows for measuring the loss, so that neither calibration nor training uses them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.tokenizer import load_tokenizer
from ...data.packing import IGNORE
from ...data.rows import BadRows, RowReport
from ...data.sources import Source, scoring_rows, training_rows
from ...errors import UsageError
from ...steps.context import CalibrationData, as_tensor
from ..distill.losses import next_token_loss

__all__ = ["HeldOut", "hold_out_rows", "mean_loss"]

MORE = "give more text, a smaller seq_len, or other data to measure on (`held_out`)"


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure on, and how training and calibration avoid them."""

    rows: list[Tensor]
    """Held-out rows, each int64 [2, length]: token ids and labels."""
    skip: int
    """Rows at the end of the training data that are reserved for evaluation."""
    calibration: CalibrationData
    """Calibration data that ends before the held-out rows begin."""
    notes: list[str] = field(default_factory=list[str])
    """About rows of the data that were not used whole."""


def hold_out_rows(
    source: str,
    count: int,
    learning: str,
    seq_len: int,
    calibration: CalibrationData,
    model: Path,
    bad_rows: BadRows = "refuse",
) -> HeldOut:
    """Choose rows to measure on: test problems of a built-in task, or the last rows of other data.

    Args:
        source: SOURCE to take the rows from.
        count: rows wanted. If training or calibration uses the same data, at most a quarter of it
            is held out.
        learning: SOURCE of the training data, in rows of `seq_len`.
        seq_len: tokens of a row.
        calibration: calibration data.
        model: checkpoint with the tokenizer.
        bad_rows: what to do with bad rows of the source.

    Raises:
        UsageError: the source has too few rows, or shares only some of them with the others.
    """
    tokenizer = load_tokenizer(model)
    parsed = Source.parse(source)
    if parsed.generated:
        scored = scoring_rows(tokenizer, parsed, seq_len, count)
        return HeldOut([as_tensor(row) for row in scored], 0, calibration)
    learnt, calibrated = (
        parsed.same_rows(Source.parse(other)) for other in (learning, calibration.source)
    )
    report = RowReport(bad_rows)
    rows = list(training_rows(tokenizer, parsed, seq_len, seed=0, report=report))
    count = min(count, len(rows) // 4 if learnt or calibrated else len(rows))
    if not count:
        raise UsageError(
            f"{source}: {len(rows)} rows of {seq_len} tokens are too few to hold some of them out",
            MORE,
        )
    if calibrated:
        prefix = len(tokenizer("")["input_ids"])
        before = (len(rows) - count) * (seq_len - prefix)
        calibration = _first_tokens(calibration, before, prefix, source)
    kept = [as_tensor(row) for row in rows[-count:]]
    return HeldOut(kept, count if learnt else 0, calibration, report.notes(source))


def _first_tokens(
    calibration: CalibrationData, tokens: int, prefix: int, source: str
) -> CalibrationData:
    """Calibration on the first `tokens` of a text; the prefix of its rows takes none of them.

    Raises:
        UsageError: not one row fits.
    """
    samples = min(calibration.samples, tokens // (calibration.seq_len - prefix))
    if not samples:
        raise UsageError(
            f"{source}: a calibration row of {calibration.seq_len} tokens would overlap the "
            "held-out rows",
            MORE,
        )
    return replace(calibration, samples=samples)


@torch.no_grad()
def mean_loss(rows: list[Tensor], model: Any) -> float:
    """The mean next-token loss over all scored tokens of rows int64 [2, length], in nats."""
    device = next(model.parameters()).device
    total = 0.0
    tokens = 0
    for row in rows:
        scored = int((row[1, 1:] != IGNORE).sum())
        if scored:
            row = row.to(device)
            total += scored * float(
                next_token_loss(model(input_ids=row[:1], use_cache=False).logits, row[1:])
            )
            tokens += scored
    return total / max(tokens, 1)
