"""Quantize the embedding and the head a block of rows at a time, so that memory stays small."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.layouts import Layout, Scheme
from ...checkpoints.streaming import ROWS
from ...checkpoints.tensors import rows_of
from .gptq import rtn

__all__ = ["packed_vocab_matrix"]


def packed_vocab_matrix(
    path: Path, name: str, scheme: Scheme, layout: Layout
) -> tuple[dict[str, Tensor], float]:
    """Round the matrix [vocab, hidden] of an embedding or head to nearest, and pack it.

    Groups lie along the hidden size. The scale of each group has the least weight error. No Hessian
    is used: an embedding is looked up, not multiplied, so that its own error counts.

    Args:
        path: the checkpoint.
        name: full name of the module.
        scheme: bits, group size and symmetry.
        layout: layout of the tensors.

    Returns:
        The tensors, by their names after the module's name, and the relative squared error of the
        weights.
    """
    blocks: list[dict[str, Tensor]] = []
    error = energy = 0.0
    for rows in rows_of(path, f"{name}.weight", ROWS):
        for part in rows.split(1024):  # the search for scales makes many copies of its rows
            weight = part.float()
            packed = rtn(weight, scheme)
            error += float((packed.dequantize() - weight).square().sum())
            energy += float(weight.square().sum())
            blocks.append(layout.write(packed))
    return layout.joined(blocks), error / max(energy, torch.finfo(torch.float32).tiny)
