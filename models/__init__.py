"""Families of models that edgewright knows, by the `model_type` of their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Refused, UsageError
from . import gemma, llama, mistral, mixtral, qwen, qwen_moe
from .family import Experts, Family, Fold, LayerKind, Shape, has_module, weight_of
from .mixture import Mixture

__all__ = [
    "FAMILIES",
    "Experts",
    "Family",
    "Fold",
    "LayerKind",
    "Mixture",
    "Shape",
    "family_of",
    "has_module",
    "require_dense",
    "weight_of",
]

_KNOWN: tuple[Family, ...] = (
    llama.FAMILY,
    mistral.FAMILY,
    qwen.QWEN2,
    qwen.QWEN3,
    gemma.FAMILY,
    mixtral.FAMILY,
    qwen_moe.QWEN2_MOE,
    qwen_moe.QWEN3_MOE,
)
FAMILIES: dict[str, Family] = {name: family for family in _KNOWN for name in family.model_types}


def family_of(config: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family that a config.json belongs to.

    Raises:
        UsageError: the config names no model type, or lacks a size that every decoder has.
        Refused: the architecture is not supported.
    """
    name = config.get("model_type")
    if not name:
        raise UsageError(
            f"{where}: no `model_type`, so the architecture is unknown",
            "use a Hugging Face model directory",
        )
    if name not in FAMILIES:
        code = (
            ", and code that comes with a checkpoint (`auto_map`) is never run"
            if config.get("auto_map")
            else ""
        )
        raise Refused(
            f"{where}: architecture `{name}` is not supported{code}",
            f"supported: {', '.join(sorted(FAMILIES))}",
        )
    family = FAMILIES[name]
    try:
        shape = family.shape(config)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{where}: {error} is missing or not a number", "restore the config.json of the model"
        ) from error
    sizes = {name: size for name, size in vars(shape).items() if name not in ("tied", "experts")}
    if shape.experts:
        sizes |= {
            "experts": shape.experts.count,
            "experts per token": shape.experts.per_token,
            "size of an expert": shape.experts.size,
        }
    if bad := [name for name, size in sizes.items() if size < 1]:
        raise UsageError(
            f"{where}: {', '.join(bad)} must be at least 1", "restore the config.json of the model"
        )
    if shape.num_attention_heads % shape.num_key_value_heads:
        raise UsageError(
            f"{where}: {shape.num_attention_heads} query heads do not divide into {shape.num_key_value_heads} key/value heads",
            "restore the config.json of the model",
        )
    if shape.experts and shape.experts.per_token > shape.experts.count:
        raise UsageError(
            f"{where}: a token goes to {shape.experts.per_token} experts, and there are {shape.experts.count}",
            "restore the config.json of the model",
        )
    return family


def require_dense(config: Mapping[str, Any], what: str, where: str = "config.json") -> None:
    """Stop where a mixture of experts is not handled.

    Args:
        config: the model's config.json.
        what: what cannot be done to one, as in "cannot be quantized".
        where: the config, for the message.

    Raises:
        Refused: some layer of the model has experts.
    """
    if family_of(config, where).shape(config).experts:
        raise Refused(
            f"{where}: a mixture of experts (`{config['model_type']}`) cannot be {what} yet",
            "take a dense model; of a mixture, edgewright can `plan`, `prune --experts`, `distill`, `quantize` and `bench`",
        )
