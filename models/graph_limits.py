"""What the ONNX graphs of export/onnx/ cannot express."""

from __future__ import annotations

from collections.abc import Iterator

from .architecture import Architecture
from .export_format import Reason

__all__ = ["graph_reasons"]

ROTARY_FORMS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "ntk_alpha")
"""Of rotary positions. A graph has two tables for longrope, and computes those of dynamic."""
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2")


def graph_reasons(architecture: Architecture) -> Iterator[Reason]:
    """Why no graph of standard ONNX operators, nor of ONNX Runtime's, computes a model."""
    attentions = [layer.attention for layer in architecture.layers]
    if not all(attention.causal for attention in attentions):
        yield Reason(
            "`use_bidirectional_attention` is True, which the ONNX graph has no counterpart for",
            "export another model",
        )
    for form in dict.fromkeys(a.rotary.form for a in attentions if a.rotary):
        if form not in ROTARY_FORMS:
            yield Reason(
                f"rope_type `{form}` is not known to the ONNX graph",
                f"use a model with one of {', '.join(ROTARY_FORMS)}",
            )
    ffns = [layer.dense_ffn for layer in architecture.layers]
    for name in dict.fromkeys(ffn.activation for ffn in ffns if ffn):
        if name not in ACTIVATIONS:
            yield Reason(
                f"activation `{name}` is not supported",
                f"use a model with one of {', '.join(ACTIVATIONS)}",
            )
