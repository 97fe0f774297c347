"""What edgewright knows about architectures.

Families, the layers that a config.json describes, and which export formats can hold them.
"""

from __future__ import annotations

from .activation_scales import activation_scales
from .architecture import Architecture, architecture
from .blocks import (
    Attention,
    AttentionSizes,
    CutAxis,
    DenseFFN,
    ExpertsFFN,
    Fold,
    Linear,
    Norm,
    PositionScale,
    Rotary,
)
from .buffers import is_buffer
from .config_values import check_values
from .export_format import ExportFormat, Reason
from .expressible import HEADS, MERGED_HEADS, expressible, require_expressible
from .families import FAMILIES
from .family_lookup import EmbeddingAndHead, embedding_and_head
from .formats import FORMATS, PORTABLE
from .layer import Branch, Layer
from .modules import (
    decoder_layers,
    finished_logits,
    has_module,
    inside_expert,
    weight_in,
    weight_of,
)
from .wrappers import (
    WRAPPED_IN,
    WRAPPERS,
    stored_names,
    text_config,
    text_name,
    whole_block,
    whole_config,
)

__all__ = [
    "FAMILIES",
    "FORMATS",
    "HEADS",
    "MERGED_HEADS",
    "PORTABLE",
    "WRAPPED_IN",
    "WRAPPERS",
    "Architecture",
    "Attention",
    "AttentionSizes",
    "Branch",
    "CutAxis",
    "DenseFFN",
    "EmbeddingAndHead",
    "ExpertsFFN",
    "ExportFormat",
    "Fold",
    "Layer",
    "Linear",
    "Norm",
    "PositionScale",
    "Reason",
    "Rotary",
    "activation_scales",
    "architecture",
    "check_values",
    "decoder_layers",
    "embedding_and_head",
    "expressible",
    "finished_logits",
    "has_module",
    "inside_expert",
    "is_buffer",
    "require_expressible",
    "stored_names",
    "text_config",
    "text_name",
    "weight_in",
    "weight_of",
    "whole_block",
    "whole_config",
]
