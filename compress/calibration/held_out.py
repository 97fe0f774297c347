"""Rows that are set aside to measure a loss on, so that neither calibration nor learning ever sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.loading import load_tokenizer
from ...data.packing import IGNORE
from ...data.sources import Source, scoring_rows, training_rows
from ...errors import UsageError
from ...steps.context import CalibrationData, as_tensor
from ..distill.losses import next_token_loss

__all__ = ["HeldOut", "mean_loss", "hold_out_rows"]


@dataclass(frozen=True)
class HeldOut:
    """What was set aside, and what the others must leave alone."""

    rows: list[Tensor]
    """int64 [2, length] of ids and labels."""
    skip: int
    """So many rows at the end of the data to learn on must not be learnt on."""
    calibration: CalibrationData
    """Calibration that ends before the rows begin."""


def hold_out_rows(
    source: str, count: int, learning: str, seq_len: int, calibration: CalibrationData, model: Path
) -> HeldOut:
    """Choose rows to measure on: the held-out problems of a built-in task, the last rows of anything else.

    Args:
        source: SOURCE to take them from.
        count: rows wanted; of data that others need too, at most a quarter is taken.
        learning: SOURCE that is learnt on, in rows of `seq_len`.
        seq_len: tokens a row.
        calibration: what importance is measured on.
        model: whose tokenizer to use.

    Raises:
        UsageError: the source is too small.
    """
    tokenizer, parsed = load_tokenizer(model), Source.parse(source)
    if parsed.kind == "builtin":
        return HeldOut(
            [as_tensor(row) for row in scoring_rows(tokenizer, parsed, seq_len, count)],
            0,
            calibration,
        )
    learnt, calibrated = (
        Source.parse(other).fingerprint() == parsed.fingerprint()
        for other in (learning, calibration.source)
    )
    rows = list(training_rows(tokenizer, parsed, seq_len, seed=0))
    count = min(count, len(rows) // 4 if learnt or calibrated else len(rows))
    more = "give more text, a smaller seq_len, or other data to measure on (`held_out`)"
    if not count:
        raise UsageError(
            f"{source}: {len(rows)} rows of {seq_len} tokens are too few to set some of them aside",
            more,
        )
    if calibrated:
        prefix = len(
            tokenizer("")["input_ids"]
        )  # a row repeats it, so that it is no token of the text
        before = (len(rows) - count) * (seq_len - prefix)
        samples = min(calibration.samples, before // (calibration.seq_len - prefix))
        if not samples:
            raise UsageError(
                f"{source}: a calibration row of {calibration.seq_len} tokens would reach into what is set aside",
                more,
            )
        calibration = replace(calibration, samples=samples)
    return HeldOut([as_tensor(row) for row in rows[-count:]], count if learnt else 0, calibration)


@torch.no_grad()
def mean_loss(rows: list[Tensor], model: Any) -> float:
    """The mean next-token loss over all scored tokens of rows int64 [2, length], in nats."""
    device, total, tokens = next(model.parameters()).device, 0.0, 0
    for row in rows:
        scored = int((row[1, 1:] != IGNORE).sum())
        if scored:
            row = row.to(device)
            total += scored * float(
                next_token_loss(model(input_ids=row[:1], use_cache=False).logits, row[1:])
            )
            tokens += scored
    return total / max(tokens, 1)
