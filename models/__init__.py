"""Architectures as data: what a config.json describes, and the modules that go with it."""

from __future__ import annotations

from .architecture import Architecture, Tables, architecture, tables
from .blocks import Attention, AttentionSizes, CutAxis, ExpertsFFN, Fold, GatedFFN, Linear, Norm
from .expressible import Format, Reason, expressible, require_expressible
from .families import FAMILIES
from .layer import Branch, Layer
from .modules import decoder_layers, has_module, inside_expert, weight_in, weight_of

__all__ = [
    "FAMILIES",
    "Architecture",
    "Attention",
    "AttentionSizes",
    "Branch",
    "CutAxis",
    "ExpertsFFN",
    "Fold",
    "Format",
    "GatedFFN",
    "Layer",
    "Linear",
    "Norm",
    "Reason",
    "Tables",
    "architecture",
    "decoder_layers",
    "expressible",
    "has_module",
    "inside_expert",
    "require_expressible",
    "tables",
    "weight_in",
    "weight_of",
]
