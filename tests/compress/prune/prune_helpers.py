"""Helpers that several tests of pruning share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgewright.compress.prune.runner import PruneOptions

IDS = torch.arange(1, 41).view(1, -1) * 7 % 500
MIXTURE_NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}
"""Names of the FFN and of an expert's projections in files, where a family has its own."""


def plain(**options: Any) -> PruneOptions:
    """A cut without refit, so that the result equals the masked original."""
    return PruneOptions(compensate=False, **options)


def stock_model(folder: Path) -> Any:
    """The model as stock transformers loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def counted(weight: Tensor) -> Tensor:
    """Zeros in every group of four weights, of every 17th row."""
    rows, width = weight.shape
    return torch.tensor(
        [
            [int((weight[r, c : c + 4] == 0).sum()) for c in range(0, width, 4)]
            for r in range(0, rows, 17)
        ]
    )
