"""A decoder layer run one group of linear layers at a time, each with the Hessian of its inputs.

A group is the linear layers that read the same input. Whoever changes the weights of a group sees the
inputs that the groups before it, already changed, give it. One pass through the layer is enough: what
enters the two output projections is kept, and the residual stream takes the place of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from torch import Tensor, nn

from ...models import Branch, GatedFFN, Layer, weight_of
from .activation_buffer import ActivationBuffer, Activations
from .expert_walk import routed_groups
from .hessian import Hessian
from .layer_inputs import LayerCall, StopForward, batches
from .mixed_precision import mixed_precision

__all__ = ["LayerWalk"]


class LayerWalk:
    """Walks through the decoder layers of one model.

    Args:
        buffer: where the inputs of the two output projections are kept.
        bf16: whether products are computed in bfloat16. Those of routed experts are not, so that no
            token goes elsewhere the second time.
        tokens: for each channel of a Hessian, how many tokens it is made of, drawn at random; None:
            all. Those of routed experts take all.
    """

    def __init__(
        self, buffer: ActivationBuffer, bf16: bool = False, tokens: int | None = None
    ) -> None:
        self._buffer = buffer
        self._bf16 = bf16
        self._enough = tokens
        self._kept: dict[str, Activations] = {}
        self.tokens: dict[str, int] = {}
        """How many tokens the linear layers of each routed expert, by name, got in this layer."""

    def visit(
        self, module: nn.Module, layer: Layer, call: LayerCall, states: Activations
    ) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Each group of linear layers, in order, with the Hessian [in, in] of its inputs.

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

    def _hessian(self, states: Activations, width: int) -> Hessian:
        share = (
            1.0
            if self._enough is None
            else min(1.0, self._enough * width / (len(states) * states.shape[1]))
        )
        return Hessian(width, states.device, share, self._bf16)

    def _normed(self, module: nn.Module, branch: Branch, states: Activations) -> Tensor:
        """The Hessian of the normed stream."""
        norm, hessian = (
            module.get_submodule(branch.norm.name),
            self._hessian(states, states.shape[2]),
        )
        for batch in batches(states):
            hessian.add(norm(states[batch]))
        return hessian.matrix()

    def _kept_inputs(
        self, branch: Branch, module: nn.Module, call: LayerCall, states: Activations
    ) -> Tensor:
        """The Hessian of what enters an output projection; the inputs are kept for `_add`."""
        (name,) = self._output(branch)
        reader = module.get_submodule(name)
        width = weight_of(reader).shape[1]
        if name not in self._kept:
            self._kept[name] = self._buffer.allocate(
                states.shape[0], states.shape[1], width, states.device
            )
        kept, hessian, at = self._kept[name], self._hessian(states, width), slice(0)

        def seen(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            kept[at] = args[0]
            hessian.add(args[0])
            raise StopForward

        handle = reader.register_forward_pre_hook(seen)
        try:
            for at in batches(states):
                with suppress(StopForward), mixed_precision(states.device, self._bf16):
                    call(module, states[at])
        finally:
            handle.remove()
        return hessian.matrix()

    def _add(self, module: nn.Module, branch: Branch, states: Activations) -> None:
        """Add the outputs of a block, and of the norm behind it, to the stream."""
        (name,) = self._output(branch)
        project, kept = module.get_submodule(name), self._kept[name]
        norm = module.get_submodule(branch.post_norm.name) if branch.post_norm else nn.Identity()
        for batch in batches(states):
            with mixed_precision(states.device, self._bf16):
                written = norm(project(kept[batch]))
            states[batch] = states[batch] + written
