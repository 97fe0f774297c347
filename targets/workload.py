"""How a model is stored and used on a target: what memory and speed depend on beside the device."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.packed_tables import TableBytes

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
        extra_bytes: of linear layers, which `precision` and `group_size` do not explain. Every step
            reads them.
        table_bytes: of an embedding and a head that are packed; None: they are in floating point.
    """

    precision: str
    context: int = 2048
    prompt: int = 2048
    batch: int = 1
    group_size: int = 128
    extra_bytes: int = 0
    table_bytes: TableBytes | None = None
