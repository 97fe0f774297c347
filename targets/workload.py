"""How a model is stored and used on a target: what memory and speed depend on beside the device."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Workload"]


@dataclass(frozen=True)
class Workload:
    """How a model is stored and used.

    Attributes:
        precision: of the linear layers, one of `PRECISIONS`.
        context: tokens in the cache of each sequence.
        prompt: tokens of the prompt, which one pass processes. A longer prompt than the context is
            cut to it.
        batch: sequences at a time.
        group_size: input channels that share an INT4 scale; -1: the whole width.
        extra_bytes: weights beyond linear layers in `precision` and the rest in floating point.
            Every step reads them.
    """

    precision: str
    context: int = 2048
    prompt: int = 2048
    batch: int = 1
    group_size: int = 128
    extra_bytes: int = 0
