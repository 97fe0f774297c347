"""EXAONE 4: norms behind the blocks only; layers without a window have no positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import Family


class Exaone4(Family):
    """EXAONE 4; a model without windows has positions in all layers."""

    def slides(self, full: Mapping[str, Any], index: int) -> bool:
        """Files write the pattern as a number or as letters, `LLLG` for local and global layers."""
        pattern = full.get("sliding_window_pattern")
        every = len(pattern) if isinstance(pattern, str) else int(pattern or 0)
        return not every or (index + 1) % every != 0

    def rotates(self, full: Mapping[str, Any], index: int, slides: bool) -> bool:
        """See `Family.rotates`."""
        return slides or not full.get("sliding_window")


FAMILY = Exaone4(
    "exaone4",
    qk_norm=True,
    mixer_norm=None,
    mixer_post_norm="post_attention_layernorm",
    ffn_norm=None,
    ffn_post_norm="post_feedforward_layernorm",
    biases={},
    windowed=True,
    defaults={
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "rms_norm_eps": 1e-5,
    },
)
