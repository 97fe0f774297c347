"""A decoder layer run one group of linear layers at a time, each with the Gram matrix of its inputs.

A group is the linear layers that read the same input. Whoever changes the weights of a group sees the
inputs that the groups before it, already changed, give it. One pass through the layer is enough: what
enters the two output projections is kept, and the residual stream takes the place of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, nn

from ...models import Branch, GatedFFN, Layer, weight_of
from .activation_buffer import Activations, Room
from .expert_walk import routed_groups
from .gram import Gram
from .layer_inputs import LayerCall, Stopped, batches
from .mixed_precision import mixed

__all__ = ["LayerWalk"]


class LayerWalk:
    """Walks through the decoder layers of one model.

    Args:
        room: where the inputs of the two output projections are kept.
        bf16: whether products are computed in bfloat16. Those of routed experts are not, so that no
            token goes elsewhere the second time.
        tokens: for each channel of a Gram matrix, how many tokens it is made of, drawn at random; None:
            all. Those of routed experts take all.
    """

    def __init__(self, room: Room, bf16: bool = False, tokens: int | None = None) -> None:
        self._room = room
        self._bf16 = bf16
        self._enough = tokens
        self._kept: dict[str, Activations] = {}
        self.tokens: dict[str, int] = {}
        """How many tokens the linear layers of each routed expert, by name, got in this layer."""

    def visit(
        self, module: nn.Module, layer: Layer, call: LayerCall, states: Activations
    ) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Each group of linear layers, in order, with the Gram matrix [in, in] of its inputs.

        Change the weights of a group before asking for the next. After the last group, `states` are
        the outputs of the layer.

        Args:
            module: the decoder layer in float32. Gradients must be off.
            layer: its description.
            call: how the model calls it.
            states: what enters it.
        """
        self.tokens.clear()
        mixer, ffn = layer.branches
        readers, _ = mixer.block.input_groups
        yield readers, self._normed(module, mixer, states)
        yield self._output(mixer), self._kept_inputs(mixer, module, call, states)
        self._add(module, mixer, states)
        if layer.experts:
            yield from routed_groups(module, layer, states, self.tokens)
            return
        assert isinstance(ffn.block, GatedFFN)
        readers, _ = ffn.block.input_groups
        yield readers, self._normed(module, ffn, states)
        norm, block = module.get_submodule(ffn.norm.name), module.get_submodule(ffn.block.name)
        yield (
            self._output(ffn),
            self._kept_inputs(ffn, module, lambda _module, hidden: block(norm(hidden)), states),
        )
        self._add(module, ffn, states)

    @staticmethod
    def _output(branch: Branch) -> tuple[str, ...]:
        """The group of the output projection."""
        assert branch.block.output
        return (branch.block.output,)

    def _gram(self, states: Activations, width: int) -> Gram:
        share = (
            1.0
            if self._enough is None
            else min(1.0, self._enough * width / (len(states) * states.shape[1]))
        )
        return Gram(width, states.device, share, self._bf16)

    def _normed(self, module: nn.Module, branch: Branch, states: Activations) -> Tensor:
        """The Gram matrix of the normed stream."""
        norm, gram = module.get_submodule(branch.norm.name), self._gram(states, states.shape[2])
        for batch in batches(states):
            gram.add(norm(states[batch]))
        return gram.matrix()

    def _kept_inputs(
        self, branch: Branch, module: nn.Module, call: LayerCall, states: Activations
    ) -> Tensor:
        """The Gram matrix of what enters an output projection; the inputs are kept for `_add`."""
        (name,) = self._output(branch)
        reader = module.get_submodule(name)
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
                    call(module, states[at])
        finally:
            handle.remove()
        return gram.matrix()

    def _add(self, module: nn.Module, branch: Branch, states: Activations) -> None:
        """Add the outputs of a block, and of the norm behind it, to the stream."""
        (name,) = self._output(branch)
        project, kept = module.get_submodule(name), self._kept[name]
        norm = module.get_submodule(branch.post_norm.name) if branch.post_norm else nn.Identity()
        for batch in batches(states):
            with mixed(states.device, self._bf16):
                written = norm(project(kept[batch]))
            states[batch] = states[batch] + written
