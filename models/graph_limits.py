"""What the ONNX graphs of export/onnx/ cannot express."""

from __future__ import annotations

from collections.abc import Iterator

from .architecture import Architecture
from .export_format import Reason

__all__ = ["graph_reasons"]

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rope types whose frequencies follow the sequence length, which a static graph cannot do."""
ACTIVATIONS = ("silu", "gelu_tanh")


def graph_reasons(architecture: Architecture) -> Iterator[Reason]:
    """Why no graph of standard ONNX operators, nor of ONNX Runtime's, computes a model."""
    attentions = [layer.attention for layer in architecture.layers]
    caps = {attention.softcap for attention in attentions} - {None}
    switches = {
        "attn_logit_softcapping": next(iter(caps), None),
        "final_logit_softcapping": architecture.logit_softcap,
        "use_bidirectional_attention": not all(attention.causal for attention in attentions),
    }
    for key, value in switches.items():
        if value:
            yield Reason(
                f"`{key}` is {value}, which the ONNX graph has no counterpart for",
                "export another model",
            )
    for kind in dict.fromkeys(attention.rope_type for attention in attentions):
        if kind in LENGTH_DEPENDENT:
            yield Reason(
                f"rope_type `{kind}` changes its frequencies with the sequence length, "
                "which no static graph can do",
                "use a model with default, linear, llama3 or yarn positions",
            )
    for turned, width in dict.fromkeys((a.rotary_dim, a.sizes.head_dim) for a in attentions):
        if turned != width:
            yield Reason(
                f"rotary positions turn {turned} of {width} channels",
                "partial rotary is not supported",
            )
    ffns = [layer.dense_ffn for layer in architecture.layers]
    for name in dict.fromkeys(ffn.activation for ffn in ffns if ffn):
        if name not in ACTIVATIONS:
            yield Reason(
                f"activation `{name}` is not supported",
                "models use silu or the tanh form of gelu",
            )
