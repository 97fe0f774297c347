"""Scales behind an activation, which AWQ files of some families hold beside the packed weights.

AutoAWQ divides the output of the activation by them (its `ScaledActivation`), because no norm or
linear layer before the next projection could hold the division. transformers and vLLM expect the
tensors in every AWQ file of such a family, and compute with undefined numbers where they are absent
(`transformers.integrations.awq.AWQ_SCALES_MAPPINGS`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .families import FAMILIES

__all__ = ["activation_scales"]


def activation_scales(config: Mapping[str, Any]) -> dict[str, int]:
    """Names and sizes of these tensors; empty for families that have none."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or family.awq_activation is None:
        return {}
    sizes = family.sizes(config)
    return {
        f"{family.decoder_layers}.{index}.{family.awq_activation}.scales": sizes.intermediate_size
        for index in range(sizes.num_hidden_layers)
    }
