"""The embedding and the head, rounded to nearest a block of rows after the other: neither is ever whole in memory as floats."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...checkpoints.files import rows_of
from ...checkpoints.layouts import Layout, Scheme
from ...checkpoints.streaming import ROWS
from .gptq import rtn

__all__ = ["packed_vocab_matrix"]


def packed_vocab_matrix(
    path: Path, name: str, scheme: Scheme, layout: Layout
) -> tuple[dict[str, Tensor], float]:
    """The tensors of a packed table [vocab, hidden] of a checkpoint, with groups along the hidden size.

    No Hessian has a say: an embedding is looked up and not multiplied, so that its own error is what counts; the
    scale of each group is that of the least error.

    Args:
        path: the checkpoint.
        name: of the module.
        scheme: bits, group size and symmetry.
        layout: in which the tensors are to be.

    Returns:
        The tensors, by what they are called after the module's name, and the relative squared error of the weights.
    """
    blocks: list[dict[str, Tensor]] = []
    error = energy = 0.0
    for rows in rows_of(path, f"{name}.weight", ROWS):
        for part in rows.split(1024):  # the search for the scales needs room for many copies
            weight = part.float()
            packed = rtn(weight, scheme)
            error += float((packed.dequantize() - weight).square().sum())
            energy += float(weight.square().sum())
            blocks.append(layout.write(packed))
    return layout.joined(blocks), error / max(energy, torch.finfo(torch.float32).tiny)
