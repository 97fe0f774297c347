"""Buffers in checkpoints that transformers ignores, because it computes them itself."""

from __future__ import annotations

import re

__all__ = ["is_buffer"]

BUFFERS = re.compile(
    r"rotary_emb\.(\w*inv_freq|cos_cached|sin_cached)$"
    r"|(^|\.)position_ids$|\.(masked_bias|causal_mask)$"
)
"""What older releases of transformers stored, in models of any architecture."""


def is_buffer(name: str) -> bool:
    """Whether a stored tensor of this name is such a buffer, and so no part of the model."""
    return BUFFERS.search(name) is not None
