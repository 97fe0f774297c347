"""A 2:4 sparse student stays sparse: what its checkpoint holds as zero is zero again after every step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...checkpoints.files import read_provenance
from ...errors import UsageError
from ...models import Family, weight_of
from ..prune.two_four import is_two_four
from .linears import decoder_linears

__all__ = ["zeros_of"]


def zeros_of(student: Any, family: Family, folder: Path) -> Callable[[], None] | None:
    """What puts a sparse student's zeros back, or None for a dense student.

    A student is sparse when every linear layer of its decoder layers has the pattern, whoever made it. Zeros beyond the
    pattern stay too: a weight that is back at zero by chance cannot be told from one that was removed.

    Args:
        student: as loaded, before it learns.
        family: whose names to use.
        folder: its checkpoint.

    Raises:
        UsageError: `edgewright.json` says that the checkpoint is sparse, and it is not.
    """
    linears = decoder_linears(student, family)
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

    def put_back() -> None:
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    return put_back
