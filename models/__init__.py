"""What edgewright knows about architectures.

Families, the layers that a config.json describes, and which export formats can hold them.
"""

from __future__ import annotations

from .architecture import Architecture, architecture
from .blocks import (
    Attention,
    AttentionSizes,
    CutAxis,
    ExpertsFFN,
    Fold,
    GatedFFN,
    Linear,
    Norm,
    PositionScale,
    Rotary,
)
from .buffers import is_buffer
from .export_format import ExportFormat, Reason
from .expressible import expressible, require_expressible
from .families import FAMILIES
from .family_lookup import EmbeddingAndHead, embedding_and_head
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
    "EmbeddingAndHead",
    "ExpertsFFN",
    "ExportFormat",
    "Fold",
    "GatedFFN",
    "Layer",
    "Linear",
    "Norm",
    "PositionScale",
    "Reason",
    "Rotary",
    "architecture",
    "decoder_layers",
    "embedding_and_head",
    "expressible",
    "has_module",
    "inside_expert",
    "is_buffer",
    "require_expressible",
    "weight_in",
    "weight_of",
]
