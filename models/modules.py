"""The torch modules of a loaded model, found by its architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .architecture import Architecture
from .family_lookup import EmbeddingAndHead
from .layer import Layer

if TYPE_CHECKING:  # plans read sizes only, and torch takes seconds to import
    from torch import Tensor, nn

__all__ = [
    "decoder_layers",
    "finished_logits",
    "has_module",
    "inside_expert",
    "weight_in",
    "weight_of",
]


def decoder_layers(model: nn.Module, architecture: Architecture) -> list[nn.Module]:
    """The decoder layers of a loaded model, in order."""
    return list(model.get_submodule(architecture.decoder_layers).children())


def finished_logits(logits: Tensor, head: EmbeddingAndHead | Architecture) -> Tensor:
    """Scale and limit the products [..., vocab] of hidden states and the head, as a model does."""
    from torch import tanh

    if head.logit_scale != 1:
        logits = logits * head.logit_scale
    cap = head.logit_softcap
    return logits if cap is None else tanh(logits / cap) * cap


def has_module(module: nn.Module, name: str) -> bool:
    """Whether a module has a submodule of this dotted name."""
    try:
        return bool(module.get_submodule(name))
    except AttributeError:
        return False


def weight_of(linear: nn.Module) -> Tensor:
    """The weight [out, in] of a linear module, without gradient history; it can be written to."""
    from torch import Tensor

    weight = linear.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(linear).__name__} has no weight tensor")
    return weight.detach()


def weight_in(module: nn.Module, layer: Layer, name: str) -> Tensor:
    """The weight [out, in] of a linear layer by its name in files; it can be written to.

    Args:
        module: the decoder layer.
        layer: its description.
        name: within the layer. The weight of a routed expert is a part of a fused tensor.
    """
    experts = layer.experts
    found = experts.expert_of(name) if experts else None
    if experts is None or found is None:
        return weight_of(module.get_submodule(name))
    number, projection = found
    pool: Any = module.get_submodule(experts.pool)
    place = experts.projections.index(projection)
    if place == 2:  # the down projection
        return pool.down_proj.detach()[number]
    return pool.gate_up_proj.detach()[number].chunk(2)[place]


def inside_expert(module: nn.Module, layer: Layer, number: int, x: Tensor) -> Tensor:
    """The input of the down projection of an expert.

    Args:
        module: the decoder layer.
        layer: its description; it has experts.
        number: of the expert.
        x: input of the expert, [tokens, width].

    Returns:
        [tokens, size].
    """
    experts = layer.experts
    if experts is None:
        raise ValueError(f"{layer.name} has no experts")
    expert = experts.expert(number)
    pool: Any = module.get_submodule(experts.pool)
    gate, up = (weight_in(module, layer, linear.name) for linear in expert.readers)
    return pool.act_fn(x @ gate.t()) * (x @ up.t())
