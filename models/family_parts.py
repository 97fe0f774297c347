"""The small objects that families of models are described with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["QkNorm", "Reach", "Remaining"]


@dataclass(frozen=True)
class Reach:
    """How far back the attention of one layer sees, and what it knows of positions.

    Attributes:
        window: positions that a token sees, itself included; 0: all before it.
        layer_type: which of the rotary tables it uses; None: all layers share one table.
        rotary: whether it has rotary positions; else it has none.
    """

    window: int
    layer_type: str | None = None
    rotary: bool = True


@dataclass(frozen=True)
class Remaining:
    """What remains of a model after a cut, the same in every layer.

    Attributes:
        heads: query heads.
        kv_heads: key/value heads.
        ffn: neurons of a dense FFN.
        layers: indices of the layers that stay.
        experts: experts; 0: all of them.
    """

    heads: int
    kv_heads: int
    ffn: int
    layers: Sequence[int]
    experts: int = 0


@dataclass(frozen=True)
class QkNorm:
    """How a family norms queries and keys.

    Attributes:
        names: of the two norms within the attention module.
        whole: whether a norm goes over all heads together; else over each head by itself.
        after_rotary: whether it comes after the rotation; else before it.
    """

    names: tuple[str, str] = ("q_norm", "k_norm")
    whole: bool = False
    after_rotary: bool = False
