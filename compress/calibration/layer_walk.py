"""Walk a decoder layer one group of linear layers at a time, each with the Hessian of its inputs.

A group is the linear layers that read the same input. The caller may change the weights of a group;
the next group's inputs are computed with the changed weights. One pass through the layer is enough:
the inputs of the two output projections are stored, and the residual stream is updated in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from ...models import Branch, DenseFFN, Layer, Norm, weight_of
from .activation_buffer import ActivationBuffer, Activations
from .expert_walk import routed_groups
from .hessian import Hessian
from .layer_inputs import LayerCall, StopForward, batches
from .mixed_precision import mixed_precision

__all__ = ["LayerWalk"]


class LayerWalk:
    """Walks the decoder layers of one model.

    Args:
        buffer: storage for the inputs of the two output projections.
        bf16: whether matrix products are computed in bfloat16. Routed experts always use float32,
            so that the router sends each token to the same experts in every pass.
        tokens: tokens per input channel that a Hessian is computed from, drawn at random; None: all
            tokens. Routed experts always use all tokens.
    """

    def __init__(
        self, buffer: ActivationBuffer, bf16: bool = False, tokens: int | None = None
    ) -> None:
        self._buffer = buffer
        self._bf16 = bf16
        self._tokens_per_channel = tokens
        self._kept: dict[str, Activations] = {}
        self.tokens: dict[str, int] = {}
        """Tokens for each routed expert of the current layer, by the names of its linear layers."""

    def visit(
        self, module: nn.Module, layer: Layer, call: LayerCall, states: Activations
    ) -> Iterator[tuple[tuple[str, ...], Tensor]]:
        """Yield each group of linear layers, in order, with the Hessian [in, in] of its inputs.

        Change the weights of a group before asking for the next group. After the last group,
        `states` holds the outputs of the layer.

        Args:
            module: the decoder layer in float32. Gradients must be off.
            layer: its description.
            call: how the model calls it.
            states: its inputs; replaced by its outputs.
        """
        self.tokens.clear()
        mixer, ffn = layer.branches
        yield layer.input_groups[0], self._normed(module, mixer, states)
        yield self._output(mixer), self._kept_inputs(mixer, module, call, states)
        if not layer.parallel:
            self._add(module, mixer, states)
        if layer.experts:
            yield from routed_groups(module, layer, states, self.tokens)
            return
        assert isinstance(ffn.block, DenseFFN)
        if not layer.parallel:
            yield ffn.block.input_groups[0], self._normed(module, ffn, states)
        norm = _norm_of(module, ffn.norm)
        block = module.get_submodule(ffn.block.name)
        yield (
            self._output(ffn),
            self._kept_inputs(ffn, module, lambda _module, hidden: block(norm(hidden)), states),
        )
        if layer.parallel:
            self._add(module, mixer, states)
        self._add(module, ffn, states)

    @staticmethod
    def _output(branch: Branch) -> tuple[str, ...]:
        """The group that consists of the output projection alone."""
        assert branch.block.output
        return (branch.block.output,)

    def _hessian(self, states: Activations, width: int) -> Hessian:
        share = (
            1.0
            if self._tokens_per_channel is None
            else min(1.0, self._tokens_per_channel * width / (len(states) * states.shape[1]))
        )
        return Hessian(width, states.device, share, self._bf16)

    def _normed(self, module: nn.Module, branch: Branch, states: Activations) -> Tensor:
        """The Hessian of the residual stream after the norm of a branch, if it has one."""
        norm = _norm_of(module, branch.norm)
        hessian = self._hessian(states, states.shape[2])
        for batch in batches(states):
            hessian.add(norm(states[batch]))
        return hessian.matrix()

    def _kept_inputs(
        self, branch: Branch, module: nn.Module, call: LayerCall, states: Activations
    ) -> Tensor:
        """The Hessian of the inputs of an output projection; the inputs are stored for `_add`."""
        (name,) = self._output(branch)
        reader = module.get_submodule(name)
        width = weight_of(reader).shape[1]
        if name not in self._kept:
            self._kept[name] = self._buffer.allocate(
                states.shape[0],
                states.shape[1],
                width,
                states.device,
                torch.bfloat16 if self._bf16 else torch.float32,
            )
        kept = self._kept[name]
        hessian = self._hessian(states, width)
        at = slice(0)

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
        """Add the outputs of a block, normed if a norm follows it, to the residual stream."""
        (name,) = self._output(branch)
        project = module.get_submodule(name)
        kept = self._kept[name]
        norm = _norm_of(module, branch.post_norm)
        for batch in batches(states):
            with mixed_precision(states.device, self._bf16):
                output = norm(project(kept[batch]))
            states[batch] = states[batch] + branch.scale * output


def _norm_of(module: nn.Module, norm: Norm | None) -> nn.Module:
    """The module of a norm in a decoder layer; where there is none, one that changes nothing."""
    return module.get_submodule(norm.name) if norm else nn.Identity()
