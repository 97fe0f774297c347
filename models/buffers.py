"""Tensors that checkpoints of older releases of transformers hold, and newer releases compute."""

from __future__ import annotations

import re

__all__ = ["is_buffer"]

BUFFERS = re.compile(
    r"rotary_emb\.(\w*inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)position_ids$|\.(masked_bias|causal_mask)$"
)
"""Names of rotary tables, positions and masks."""


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is a buffer, which transformers ignores and computes anew."""
    return BUFFERS.search(name) is not None
