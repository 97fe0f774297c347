"""Collects for GPTQ what each expert of a mixture of experts gets as inputs.

GPTQ needs the Hessian of the inputs of every linear layer that it rounds. Elsewhere hooks on the
modules collect it. An expert is no module: all experts of a layer are stored in fused tensors, and
a router sends each token to a few of them. So tokens are routed once, and each expert's inputs are
gathered from the residual stream. The inputs of a down projection are computed with the gate and up
projections as they are at that time, that is, already quantized. At the end, the FFN of the layer
runs once and its output is added to the residual stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...models import ExpertsFFN, Layer, inside_expert
from .activation_buffer import Activations
from .hessian import Hessian
from .layer_inputs import batches, input_hessian

__all__ = ["routed_groups"]

HESSIAN_BYTES = 2**28
"""Memory for Hessians of experts collected in one pass; the other experts need further passes."""


def routed_groups(
    module: nn.Module, layer: Layer, states: Activations, tokens: dict[str, int]
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield each group of linear layers of the experts, in order, with the Hessian of its inputs.

    This is the second half of `LayerWalk.visit`, after the attention.

    Args:
        module: a decoder layer that has experts, in float32. Gradients must be off.
        layer: its description.
        states: the residual stream after the attention. After the last group, it holds the
            outputs of the layer.
        tokens: is filled with the number of tokens that each routed expert gets, by the names of
            its linear layers.
    """
    experts = layer.experts
    assert experts
    assert layer.ffn_norm, "every family with experts has it"
    norm = module.get_submodule(layer.ffn_norm.name)
    yield from _shared_groups(module, experts, norm, states)
    chosen = _chosen_experts(module, experts, norm, states)
    counts = torch.cat(chosen).flatten().bincount(minlength=experts.count).tolist()
    any_expert = experts.expert("*")  # all of them have the same sizes
    widths = [any_expert.up.in_features, any_expert.down.in_features]
    together = max(1, HESSIAN_BYTES // (4 * max(widths) ** 2))
    for first in range(0, len(counts), together):
        some = range(first, min(first + together, len(counts)))
        for group_number, width in enumerate(widths):  # gate and up, which read one input; down
            is_down = group_number == 1
            hessians = {expert: Hessian(width, states.device) for expert in some}
            for batch, numbers in zip(batches(states), chosen, strict=True):
                stream = norm(states[batch]).flatten(0, 1)
                for expert, hessian in hessians.items():
                    mine = stream[(numbers == expert).any(1)]
                    hessian.add(inside_expert(module, layer, expert, mine) if is_down else mine)
            for expert in some:
                group = experts.expert(expert).input_groups[group_number]
                tokens |= {name: int(counts[expert]) for name in group}
                yield group, hessians.pop(expert).matrix()
    ffn = module.get_submodule(experts.name)
    for batch in batches(states):
        states[batch] = states[batch] + ffn(norm(states[batch]))


def _chosen_experts(
    module: nn.Module, experts: ExpertsFFN, norm: nn.Module, states: Activations
) -> list[Tensor]:
    """Of each batch, the numbers of the experts of every token, int64 [tokens, per_token]."""
    router: Any = module.get_submodule(experts.router)
    chosen: list[Tensor] = []
    for batch in batches(states):
        _logits, _weights, numbers = router(norm(states[batch]).flatten(0, 1))
        chosen.append(numbers)
    return chosen


def _shared_groups(
    module: nn.Module, experts: ExpertsFFN, norm: nn.Module, states: Activations
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Yield the groups of the shared expert, which all tokens go through, if there is one."""
    if experts.shared is None:
        return
    shared = module.get_submodule(experts.shared.name)
    for group in experts.shared.input_groups:
        reader = module.get_submodule(group[0])
        yield (
            group,
            input_hessian(module, reader, states, lambda _module, hidden: shared(norm(hidden))),
        )
