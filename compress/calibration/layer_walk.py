"""A decoder layer run stage by stage: each group of linears that read the same inputs is met once, and nothing is computed twice.

Whoever changes the weights of a group sees the inputs that the groups already changed give it, at the cost of a single pass
through the layer: what enters o_proj and down_proj is kept, and the residual stream takes the place of the layer's input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, nn

from ...models import Family, Mixture, weight_of
from .activation_buffer import Activations, Room
from .expert_walk import routed_groups
from .gram import Gram
from .layer_inputs import LayerCall, Stopped, batches
from .mixed_precision import mixed

__all__ = ["Stages"]


class Stages:
    """Walks through the decoder layers of one model.

    Args:
        family: whose names to use.
        room: where the inputs of the two output projections are kept.
        bf16: whether products are computed in bfloat16; those of routed experts are not, lest a token go elsewhere the second time.
        tokens: a channel that a Gram matrix is made of, drawn at random; None for all. Those of routed experts take all.
    """

    def __init__(
        self, family: Family, room: Room, bf16: bool = False, tokens: int | None = None
    ) -> None:
        self._family, self._room, self._bf16, self._enough = family, room, bf16, tokens
        self._kept: dict[str, Activations] = {}
        self.tokens: dict[str, int] = {}
        """How many tokens the linear layers of each routed expert, by name, were given in the layer at hand."""

    def visit(
        self, layer: nn.Module, call: LayerCall, states: Activations
    ) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Each group of linears, in order, with the Gram matrix [in, in] of its inputs; change its weights before asking for the next.

        When all groups were asked for, `states` are what the layer puts out.

        Args:
            layer: of pre-norm attention and FFN, in float32. Gradients must be off.
            call: how the model would call it.
            states: what enters it.
        """
        family = self._family
        self.tokens.clear()
        qkv, o, gate_up, down = family.input_groups
        yield qkv, self._normed(layer, family.attention_norm, states)
        yield o, self._kept_inputs(family.o, layer, call, states)
        self._add(layer, family.o, family.attention_post_norm, states)
        if isinstance(family, Mixture) and family.routed(layer):
            yield from routed_groups(family, layer, states, self.tokens)
            return
        yield gate_up, self._normed(layer, family.mlp_norm, states)
        norm, mlp = layer.get_submodule(family.mlp_norm), layer.get_submodule(family.mlp)
        yield (
            down,
            self._kept_inputs(family.down, layer, lambda _layer, hidden: mlp(norm(hidden)), states),
        )
        self._add(layer, family.down, family.mlp_post_norm, states)

    def _gram(self, states: Activations, width: int) -> Gram:
        share = (
            1.0
            if self._enough is None
            else min(1.0, self._enough * width / (len(states) * states.shape[1]))
        )
        return Gram(width, states.device, share, self._bf16)

    def _normed(self, layer: nn.Module, name: str, states: Activations) -> Tensor:
        """The Gram matrix of what a norm makes of the stream."""
        norm, gram = layer.get_submodule(name), self._gram(states, states.shape[2])
        for batch in batches(states):
            gram.add(norm(states[batch]))
        return gram.matrix()

    def _kept_inputs(
        self, name: str, layer: nn.Module, call: LayerCall, states: Activations
    ) -> Tensor:
        """The Gram matrix of what enters an output projection, and the inputs themselves for later."""
        reader = layer.get_submodule(name)
        width = weight_of(reader).shape[1]
        if name not in self._kept:
            self._kept[name] = self._room.states(
                states.shape[0], states.shape[1], width, states.device
            )
        kept, gram, at = self._kept[name], self._gram(states, width), slice(0)

        def seen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[at] = args[0]
            gram.add(args[0])
            raise Stopped

        handle = reader.register_forward_pre_hook(seen)
        try:
            for at in batches(states):
                with suppress(Stopped), mixed(states.device, self._bf16):
                    call(layer, states[at])
        finally:
            handle.remove()
        return gram.matrix()

    def _add(self, layer: nn.Module, name: str, post_norm: str | None, states: Activations) -> None:
        """Let an output projection, and the norm behind it, write to the stream."""
        project, kept = layer.get_submodule(name), self._kept[name]
        norm = layer.get_submodule(post_norm) if post_norm else nn.Identity()
        for batch in batches(states):
            with mixed(states.device, self._bf16):
                written = norm(project(kept[batch]))
            states[batch] = states[batch] + written
