"""The kinds of blocks that decoder layers are made of, one small file for each kind."""

from __future__ import annotations

from .attention import Attention, AttentionSizes
from .cut_axis import CutAxis, Unit
from .experts import ExpertsFFN
from .ffn import DenseFFN
from .fold import Fold
from .linear import Linear
from .norm import Norm
from .protocols import FFN, Block, Mixer
from .rotary import PositionScale, Rotary, RotaryRule

__all__ = [
    "FFN",
    "Attention",
    "AttentionSizes",
    "Block",
    "CutAxis",
    "DenseFFN",
    "ExpertsFFN",
    "Fold",
    "Linear",
    "Mixer",
    "Norm",
    "PositionScale",
    "Rotary",
    "RotaryRule",
    "Unit",
]
