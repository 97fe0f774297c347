"""Random numbers by name: a name always gets the same numbers, whatever else is drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["uniforms"]


def uniforms(seed: int, names: Iterable[tuple[int, ...]], length: int) -> Tensor:
    """Random numbers in [0, 1), float32 [names, length].

    Args:
        seed: the seed.
        names: what the numbers are for, such as (question, chain). The numbers of a name do not
            depend on the other names.
        length: how many numbers each name gets.
    """
    drawn = [
        torch.rand(length, generator=_generator("/".join(map(str, (seed, *name)))))
        for name in names
    ]
    return torch.stack(drawn)


def _generator(name: str) -> torch.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
