"""Attention of one new token a row, without copying the keys and values for each query head.

With a mask, transformers repeats keys and values once for each query head of their group, at every
token. Here the query heads of a group are the rows of one product instead, so that each key is read
once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

__all__ = ["use_grouped_attention"]

NAME = "grouped_sdpa"


def use_grouped_attention(model: Any) -> None:
    """Let a model of transformers use it, if its attention is torch's (`sdpa`)."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, _grouped_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def _grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls.

    Args:
        module: the attention layer.
        query: [rows, heads, tokens, head_dim].
        key: [rows, kv_heads, length, head_dim].
        value: likewise.
        attention_mask: added to the scores, [rows, 1, tokens, length].
        scaling: factor of the scores.
        kwargs: what transformers passes to `sdpa` too.

    Returns:
        [rows, tokens, heads, head_dim], and no weights.
    """
    rows, heads, tokens, width = query.shape
    if tokens > 1 or attention_mask is None:
        mixed, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return mixed, None
    grouped = query.reshape(rows, key.shape[1], -1, width)
    mixed = F.scaled_dot_product_attention(
        grouped, key, value, attn_mask=attention_mask, scale=scaling
    )
    return mixed.reshape(rows, 1, heads, width), None
