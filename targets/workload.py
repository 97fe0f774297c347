"""How a model is stored and used on a target: what memory and speed depend on beside the device."""

from __future__ import annotations

from dataclasses import dataclass

from ..models.kv_cache import KvCache
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
        extra_bytes: of weights, which `precision` and `group_size` do not explain. Every step reads
            them.
        table_bytes: of an embedding and a head that are packed; None: they are in floating point.
        kv_cache: how keys and values are cached.
        whole_cache: whether layers with a window cache all positions, as our graphs do.
    """

    precision: str
    context: int = 2048
    prompt: int = 2048
    batch: int = 1
    group_size: int = 128
    extra_bytes: int = 0
    table_bytes: TableBytes | None = None
    kv_cache: KvCache = "float"
    whole_cache: bool = False
