"""StableLM: layer norms, partial rotary, and in some models parallel blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import Refused
from ..blocks import Norm, RotaryRule
from ..family import Family


class StableLm(Family):
    """StableLM 2 and StableLM 3B."""

    def is_parallel(self, config: Mapping[str, Any]) -> bool:
        """Set by `use_parallel_residual`."""
        return bool(config.get("use_parallel_residual"))

    def qk_norms(self, config: Mapping[str, Any]) -> tuple[Norm | None, Norm | None]:
        """Not supported: every head has a norm of its own."""
        if config.get("qk_layernorm"):
            raise Refused(
                "config.json: `qk_layernorm` gives every head a norm of its own, "
                "which edgewright does not support",
                "use a StableLM without `qk_layernorm`: 3B or 1.6B",
            )
        return None, None


FAMILY = StableLm(
    "stablelm",
    norm_kind="layer",
    norm_bias=True,
    norm_epsilon="layer_norm_eps",
    biases={"use_qkv_bias": ("q", "k", "v")},
    head_counts="fixed",
    rotary_rule=RotaryRule(share=0.25, partial=True),
    defaults={"num_attention_heads": 32, "num_key_value_heads": 32, "layer_norm_eps": 1e-5},
)
