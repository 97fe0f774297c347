"""Whether a format can hold a model.

Plans, target checks and the writers of formats all ask this one function, so that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..errors import Refused
from .architecture import Architecture

__all__ = ["Format", "Reason", "expressible", "require_expressible"]

Format = Literal[
    "onnx",
    "ort",
    "tensorrt",
    "triton",
    "edge-llm",
    "gguf",
    "awq",
    "int8",
    "smoothquant",
    "scaling",
    "2:4",
    "qat",
    "qlora",
]
"""The export formats; then quantization methods, `scaling` before rounding, 2:4 sparsity,
training on a quantized grid (`qat`), and adapters beside packed weights (`qlora`)."""
GRAPHS = ("onnx", "ort", "tensorrt", "triton")
DENSE_ONLY = {
    **dict.fromkeys((*GRAPHS, "edge-llm", "gguf"), "exported"),
    "2:4": "made 2:4 sparse",
    "qat": "trained quantization-aware",
    "qlora": "trained with adapters while its weights are packed",
}
"""What works for dense models only, and the participle for the message: `cannot be exported`."""
FACTORS = "its factors would go into a norm that the router reads too"
NO_EXPERTS = {
    "awq": f"method awq: {FACTORS}",
    "scaling": f"scaling: {FACTORS}",
    "int8": "method int8: experts do not round their inputs",
    "smoothquant": "method smoothquant: experts do not round their inputs",
}
"""Why a way to quantize does not work for experts."""
GGUF_MODELS = ("llama", "qwen2", "qwen3")
GGUF_ROPE_TYPES = ("default", "linear")
LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rope types whose frequencies follow the sequence length, which a static graph cannot do."""
ACTIVATIONS = ("silu", "gelu_tanh")


@dataclass(frozen=True)
class Reason:
    """Why a format cannot hold a model."""

    message: str
    remedy: str
    """What to do instead."""


def expressible(architecture: Architecture, format: Format) -> list[Reason]:
    """The reasons why a format cannot hold a model; an empty list if it can.

    Args:
        architecture: the model.
        format: an export format, or another operation on the weights; see `Format`.
    """
    reasons = [*_experts(architecture, format)]
    if format in GRAPHS:
        reasons += _graph(architecture)
    if format == "gguf":
        reasons += _gguf(architecture)
    return reasons


def require_expressible(architecture: Architecture, format: Format, where: str) -> None:
    """Stop where a format cannot hold a model.

    Args:
        architecture: the model.
        format: see `expressible`.
        where: the model, for the message.

    Raises:
        Refused: with every reason.
    """
    if reasons := expressible(architecture, format):
        message = "; ".join(reason.message for reason in reasons)
        remedies = dict.fromkeys(reason.remedy for reason in reasons)
        raise Refused(f"{where}: {message}", "; ".join(remedies))


def _experts(architecture: Architecture, format: Format) -> Iterator[Reason]:
    if not architecture.expert_layers:
        return
    mixture = f"a mixture of experts (`{architecture.model_type}`)"
    if format in NO_EXPERTS:
        yield Reason(
            f"{mixture} and {NO_EXPERTS[format]}", "use --method gptq or rtn, without --scaling"
        )
    else:
        yield Reason(
            f"{mixture} cannot be {DENSE_ONLY[format]} yet",
            "use a dense model; a mixture can go through `plan`, `prune --experts`, `distill`, "
            "`quantize` and `bench`",
        )


def _graph(architecture: Architecture) -> Iterator[Reason]:
    """What the nodes of an ONNX graph have no counterpart for."""
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


def _gguf(architecture: Architecture) -> Iterator[Reason]:
    """What llama.cpp would not compute, or what is not written for it."""
    name = architecture.model_type
    if name not in GGUF_MODELS:
        yield Reason(
            f"{name} models are not written as GGUF here", f"one of {', '.join(GGUF_MODELS)}"
        )
        return
    attentions = [layer.attention for layer in architecture.layers]
    longest = architecture.max_positions
    if any(attention.window and longest and attention.window < longest for attention in attentions):
        yield Reason(
            f"has layers with a sliding window, which llama.cpp would not apply to a {name}",
            "--format onnx, or llama.cpp's own converter if it knows the model",
        )
    for kind in dict.fromkeys(attention.rope_type for attention in attentions):
        if kind not in GGUF_ROPE_TYPES:
            yield Reason(
                f"rope_type `{kind}` is not written as GGUF here", "use llama.cpp's own converter"
            )
