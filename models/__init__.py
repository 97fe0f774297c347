"""Families of models that edgewright knows, by the `model_type` of their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Refused, UsageError
from . import gemma, llama, mistral, qwen
from .family import Family, LayerKind, Shape, weight_of

__all__ = ["FAMILIES", "Family", "LayerKind", "Shape", "family_of", "weight_of"]

FAMILIES: dict[str, Family] = {
    name: family for family in (llama.FAMILY, mistral.FAMILY, qwen.QWEN2, qwen.QWEN3, gemma.FAMILY) for name in family.model_types
}


def family_of(config: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family that a config.json belongs to.

    Raises:
        UsageError: the config names no model type, or lacks a size that every decoder has.
        Refused: the architecture is not supported.
    """
    name = config.get("model_type")
    if not name:
        raise UsageError(f"{where}: no `model_type`, so the architecture is unknown", "use a Hugging Face model directory")
    if name not in FAMILIES:
        raise Refused(f"{where}: architecture `{name}` is not supported", f"supported: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[name]
    try:
        shape = family.shape(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{where}: {error} is missing or not a number", "restore the config.json of the model") from error
    if bad := [name for name, size in vars(shape).items() if name != "tied" and size < 1]:
        raise UsageError(f"{where}: {', '.join(bad)} must be at least 1", "restore the config.json of the model")
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise UsageError(
            f"{where}: {shape.num_attention_heads} query heads do not divide into {shape.num_key_value_heads} key/value heads",
            "restore the config.json of the model",
        )
    return family
