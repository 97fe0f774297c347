"""The FFN of a decoder layer with experts, stage by stage: each expert's linear layers are met with what its own tokens give them.

An expert is no module: all those of a layer lie in fused tensors, and the router sends every token to a few of them. So tokens are
routed once, and the inputs of an expert are gathered from the stream; what enters its down projection is what its gate and up
projections, as they have been made by then, put out. At the end the layer's own FFN runs once and writes to the stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Mixture
from .activation_buffer import Activations
from .gram import Gram
from .layer_inputs import batches, input_hessian

__all__ = ["routed_groups"]

GRAM_BYTES = 2**28
"""Of the experts' Gram matrices that are gathered together; the others wait for another walk along the stream."""


def routed_groups(
    family: Mixture, layer: nn.Module, states: Activations, tokens: dict[str, int]
) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """Each group of linears of the experts, in order, with the Gram matrix of its inputs: the part of `Stages.visit` behind the attention.

    Args:
        family: whose names to use.
        layer: a decoder layer that has experts, in float32. Gradients must be off.
        states: the stream behind the attention; what the layer puts out, when all groups were asked for.
        tokens: takes how many tokens each routed expert's linear layers, by name, are given.
    """
    norm, mlp = layer.get_submodule(family.mlp_norm), layer.get_submodule(family.mlp)
    if family.shared:
        shared = layer.get_submodule(family.shared)
        for group in family.shared_groups:
            yield (
                group,
                input_hessian(
                    layer,
                    layer.get_submodule(group[0]),
                    states,
                    lambda _layer, hidden: shared(norm(hidden)),
                ),
            )
    router: Any = layer.get_submodule(family.router)
    chosen = [router(norm(states[batch]).flatten(0, 1))[2] for batch in batches(states)]
    widths = [family.weight_in(layer, group[0]).shape[1] for group in family.expert_groups(0)]
    counts = torch.cat(chosen).flatten().bincount(minlength=len(router.weight)).tolist()
    together = max(1, GRAM_BYTES // (4 * max(widths) ** 2))
    for first in range(0, len(counts), together):
        some = range(first, min(first + together, len(counts)))
        for place, width in enumerate(widths):
            grams = {expert: Gram(width, states.device) for expert in some}
            for batch, numbers in zip(batches(states), chosen, strict=True):
                stream = norm(states[batch]).flatten(0, 1)
                for expert, gram in grams.items():
                    mine = stream[(numbers == expert).any(1)]
                    gram.add(family.inside_expert(layer, expert, mine) if place else mine)
            for expert in some:
                group = family.expert_groups(expert)[place]
                tokens |= {name: int(counts[expert]) for name in group}
                yield group, grams.pop(expert).matrix()
    for batch in batches(states):
        states[batch] = states[batch] + mlp(norm(states[batch]))
