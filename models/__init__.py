"""Architectures as data: what a config.json describes, and the modules that go with it."""

from __future__ import annotations

from .architecture import Architecture, Tables, architecture, tables
from .blocks import Attention, AttentionSizes, CutAxis, ExpertsFFN, Fold, GatedFFN, Linear, Norm
from .export_format import ExportFormat, Reason
from .expressible import expressible, require_expressible
from .families import FAMILIES
from .formats import FORMATS
from .layer import Branch, Layer
from .modules import decoder_layers, has_module, inside_expert, weight_in, weight_of

__all__ = [
    "FAMILIES",
    "FORMATS",
    "Architecture",
    "Attention",
    "AttentionSizes",
    "Branch",
    "CutAxis",
    "ExpertsFFN",
    "ExportFormat",
    "Fold",
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
