"""Scales for the input channels of a decoder layer's linear layers, found and folded before any of them is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...models import Fold, Layer, weight_of
from ..calibration.activation_buffer import Activations
from ..calibration.layer_inputs import LayerCall
from .awq import awq_factors
from .fold import apply_fold, channels_of, per_channel
from .input_statistics import InputStatistics, collect_statistics
from .options import QuantizeOptions
from .session import QuantizeSession
from .smoothquant import smooth_factors

__all__ = ["Scaler"]

Seen = Mapping[tuple[str, ...], InputStatistics]


class Scaler:
    """Scales decoder layers, one after the other.

    Args:
        run: the options, and where changed tensors are left.
        dtype: what norms and biases will be stored in.
    """

    def __init__(self, run: QuantizeSession, dtype: torch.dtype) -> None:
        self.run = run
        self.dtype = dtype

    def look(self, layer: Layer, module: nn.Module, states: Activations, call: LayerCall) -> Seen:
        """Run a layer once and scale it; the statistics of its linear layers' inputs after that."""
        options = self.run.options
        hessian = options.scaling == "awq" or options.method == "awq"
        return self.scaled(
            layer, module, collect_statistics(module, layer.input_groups, states, call, hessian)
        )

    def scaled(self, layer: Layer, module: nn.Module, seen: Seen) -> Seen:
        """Scale a layer by the statistics of its inputs.

        Tensors that change and are not packed go to `run.changed`.

        Args:
            layer: its description.
            module: the decoder layer.
            seen: statistics of the inputs of each group of linear layers.

        Returns:
            The statistics after scaling.
        """
        if self.run.options.scaling == "none":
            return seen
        after = dict(seen)
        for fold in layer.folds:
            factors = self._factors(layer, module, fold, seen[fold.readers])
            inputs = apply_fold(module, fold, factors, self.dtype)
            after[fold.readers] = seen[fold.readers].divided(inputs)
        for fold in layer.folds:
            self._keep(layer, module, fold)
        return after

    def _scheme(self, layer: Layer, name: str) -> Any:
        return self.run.options.scheme(layer.full(name))

    def _factors(
        self, layer: Layer, module: nn.Module, fold: Fold, inputs: InputStatistics
    ) -> Tensor:
        """The factors [channels of the writer] for a fold; ones where no reader is quantized."""
        options: QuantizeOptions = self.run.options
        channels = channels_of(fold, len(inputs.peak)).to(inputs.peak.device)
        weights = {name: weight_of(module.get_submodule(name)) for name in fold.readers}
        readers = [
            (weight, scheme)
            for name, weight in weights.items()
            if (scheme := self._scheme(layer, name))
        ]
        if not readers:
            return torch.ones(int(channels.max()) + 1, device=channels.device)
        if options.scaling == "smoothquant":
            largest = torch.stack([weight.abs().amax(0) for weight, _ in readers]).amax(0)
            return smooth_factors(
                per_channel(inputs.peak, fold, peak=True),
                per_channel(largest, fold, peak=True),
                options.alpha,
            )
        return awq_factors(readers, inputs, per_channel(inputs.mean, fold), channels)[0]

    def _keep(self, layer: Layer, module: nn.Module, fold: Fold) -> None:
        """Enter the tensors that a fold changed and that are not packed in `run.changed`."""
        writer, changed = module.get_submodule(fold.writer), self.run.changed
        if fold.norm:
            changed[layer.key(fold.writer)] = weight_of(writer)
        elif isinstance(bias := getattr(writer, "bias", None), Tensor):
            changed[layer.key(fold.writer, "bias")] = bias.detach()
        for name in (*fold.readers, *(() if fold.norm else (fold.writer,))):
            if self._scheme(layer, name) is None:
                changed[layer.key(name)] = weight_of(module.get_submodule(name))
