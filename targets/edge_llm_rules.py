"""The rules of TensorRT-Edge-LLM about a model, known from its config.json alone."""

from __future__ import annotations

from collections.abc import Iterator

from ..models import Architecture
from .platform_profile import EdgeLlm, Platform
from .violation import Violation

__all__ = ["edge_llm_model", "edge_llm_violations"]


def edge_llm_violations(
    platform: Platform, model: Architecture, precision: str
) -> Iterator[Violation]:
    """The rules of the format `edge-llm`: precision, model type and attention kernels.

    Args:
        platform: of the device.
        model: the architecture.
        precision: of the linear layers.
    """
    if precision == "int8" and precision in platform.precisions:
        message = "TensorRT-Edge-LLM reads INT8 as SmoothQuant W8A8 only, not as GPTQ"
        yield Violation(
            "precision", message, "quantize --method smoothquant, or --precision int4", "note"
        )
    if platform.edge_llm:
        yield from edge_llm_model(model, platform.edge_llm)


def edge_llm_model(model: Architecture, rules: EdgeLlm) -> Iterator[Violation]:
    """Why TensorRT-Edge-LLM cannot run a model: its type, or no kernel for its attention."""
    if model.model_type not in rules.model_types:
        known = ", ".join(rules.model_types)
        message = (
            f"TensorRT-Edge-LLM's list of models has none of type `{model.model_type}` "
            f"(it has {known})"
        )
        yield Violation("family", message, "--format onnx or gguf")
    by_size = {entry.head_dim: entry.query_per_kv for entry in rules.attention}
    for sizes in dict.fromkeys(layer.attention.sizes for layer in model.layers):
        ratios = by_size.get(sizes.head_dim)
        if ratios is None:
            known = ", ".join(map(str, by_size))
            message = f"no attention kernel for head_dim {sizes.head_dim} (there are {known})"
            yield Violation("attention", message, "--format tensorrt or onnx")
        elif sizes.group not in ratios:
            message = (
                f"{sizes.heads} query and {sizes.kv_heads} key/value heads: {sizes.group} a group; "
                f"at head_dim {sizes.head_dim} the kernel takes {', '.join(map(str, ratios))}"
            )
            near = min(ratios, key=lambda ratio: abs(ratio - sizes.group))
            yield Violation(
                "attention", message, f"prune to {near} query heads a group, or --format tensorrt"
            )
