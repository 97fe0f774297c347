"""Llama 2 and 3, and the models that copy them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import ATTENTION_BIAS, FFN_BIAS, Family, Remaining


class Llama(Family):
    """Llama. A pruned one may have to be written as Mistral.

    transformers 5 refuses a LlamaConfig whose width is no multiple of its head count (4096 and 24,
    say), though the model would run. Mistral without a sliding window is the same arithmetic, bit
    for bit, without that rule.
    """

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Any count, unless biases keep the model from being written as Mistral."""
        return self.sizes(config).hidden_size % heads == 0 or not self.biased(config)

    def resized(self, config: Mapping[str, Any], remaining: Remaining) -> dict[str, Any]:
        """See `Family.resized`."""
        small = super().resized(config, remaining)
        if self.sizes(config).hidden_size % remaining.heads:
            small |= {
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": None,
            }
        return small


FAMILY = Llama("llama", biases={"attention_bias": ATTENTION_BIAS, "mlp_bias": FFN_BIAS})
