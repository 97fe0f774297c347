"""Keep a 2:4 sparse student sparse: set its zeros back to zero after every optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.hashing import read_provenance
from ...errors import UsageError
from ...models import Architecture, weight_of
from ..prune.two_four import is_two_four
from .linears import decoder_linears

__all__ = ["sparsity_keeper"]


def sparsity_keeper(
    student: Any, architecture: Architecture, folder: Path
) -> Callable[[], None] | None:
    """Return a function that sets a sparse student's zeros back; None for a dense student.

    A student counts as sparse when every linear layer of its decoder layers has the 2:4 pattern,
    whichever tool made it. Zeros beyond the pattern stay zero too: a weight that is zero by chance
    cannot be told from one that was removed.

    Args:
        student: as loaded, before training.
        architecture: of the student.
        folder: its checkpoint.

    Raises:
        UsageError: `edgewright.json` says that the checkpoint is sparse, and it is not.
    """
    linears = decoder_linears(student, architecture)
    weights = {f"{name}.weight": weight_of(linear) for name, linear in linears.items()}
    dense = [name for name, weight in weights.items() if not is_two_four(weight)]
    if dense and read_provenance(folder).get("sparsity"):
        raise UsageError(
            f"{folder}: edgewright.json says 2:4 sparse, and {dense[0]} is not",
            "restore the checkpoint, or prune it again",
        )
    if dense or not weights:
        return None
    masks = [(weight, weight != 0) for weight in weights.values()]

    def restore_zeros() -> None:
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    return restore_zeros
