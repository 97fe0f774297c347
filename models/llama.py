"""Llama 2 and 3, and what copies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .family import Family


class Llama(Family):
    """Llama; a pruned one may have to be called Mistral.

    transformers 5 refuses a LlamaConfig whose width is no multiple of its head count (4096 and 24, say), though the
    model would run. Mistral without a sliding window is the same arithmetic, bit for bit, without that rule.
    """

    def accepts_heads(self, config: Mapping[str, Any], heads: int) -> bool:
        """Any count, unless biases keep the model from being written as Mistral."""
        return self.shape(config).hidden_size % heads == 0 or not self.biased(config)

    def biased(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Those of the attention, of the FFN, or both."""
        return super().biased(config) + (
            (self.gate, self.up, self.down) if config.get("mlp_bias") else ()
        )

    def resized(
        self,
        config: Mapping[str, Any],
        *,
        heads: int,
        kv_heads: int,
        ffn: int,
        layers: Sequence[int],
        experts: int = 0,
    ) -> dict[str, Any]:
        """See `Family.resized`."""
        small = super().resized(config, heads=heads, kv_heads=kv_heads, ffn=ffn, layers=layers)
        if self.shape(config).hidden_size % heads:
            small |= {
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": None,
            }
        return small


FAMILY = Llama(model_types=("llama",))
