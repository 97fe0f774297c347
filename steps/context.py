"""What every step is given and what it gives back, whether a recipe runs it or a CLI verb does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.loading import load_tokenizer
from ..data.packing import Encoded
from ..data.sources import Source, training_rows
from .options import Proof

__all__ = ["CalibrationData", "StepContext", "StepResult", "as_tensor"]


@dataclass(frozen=True)
class CalibrationData:
    """Which text a step may look at, and how much of it."""

    source: str = "builtin:reasoning"
    samples: int = 128
    seq_len: int = 512

    def rows(self, model: Path, seed: int) -> list[Tensor]:
        """`samples` rows int64 [2, seq_len] of ids and labels, or fewer where the source is smaller."""
        encoded = training_rows(
            load_tokenizer(model), Source.parse(self.source), self.seq_len, seed, self.samples
        )
        return [as_tensor(row) for row in encoded]


def as_tensor(row: Encoded) -> Tensor:
    """Ids and labels of a row as int64 [2, length]."""
    return torch.tensor([row.ids, row.labels])


@dataclass(frozen=True)
class StepContext:
    """Everything of a step that is not its own option."""

    calibration: CalibrationData = field(default_factory=CalibrationData)
    seed: int = 0
    device: str = "cpu"
    resolve: Callable[[str], Path] = Path
    """From the name of an earlier step, or a model, to its directory."""
    proof: Proof = "auto"
    """How a pruned model is shown to be right: loaded whole with stock transformers, or streamed where that would not fit in memory."""
    activation_budget: int = 1 << 30
    """Bytes of hidden states that a step which goes layer by layer keeps in memory; what is beyond goes to a file beside its output."""
    depends_on: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Everything the step depends on, by field, for a step that keeps work in progress; empty: nothing may be taken over."""
    fresh: bool = False
    """Whether work in progress is to be thrown away."""


@dataclass
class StepResult:
    """What a step has to tell beside the directory it wrote."""

    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    """Tables for the report: `head_importance`, `pruned_heads`, `loss`, `modules`, `parity`."""
