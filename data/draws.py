"""Random numbers that belong to something with a name: the same for it whatever else is drawn, in whatever order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["uniforms"]


def uniforms(seed: int, names: Iterable[tuple[int, ...]], length: int) -> Tensor:
    """Random numbers in [0, 1), float32 [names, length], the same for a name (a row and a chain, say) whatever the others are."""
    drawn = [
        torch.rand(length, generator=_generator("/".join(map(str, (seed, *name)))))
        for name in names
    ]
    return torch.stack(drawn)


def _generator(name: str) -> torch.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
