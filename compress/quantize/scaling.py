"""Scale the input channels of linear layers before rounding, and fold the scales into the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...checkpoints.layouts import Scheme
from ...models import Fold, Layer, weight_of
from ..calibration.activation_buffer import Activations
from ..calibration.layer_inputs import LayerCall
from ..calibration.mixed_precision import bf16_products
from .awq import awq_factors
from .fold import apply_fold, channels_of, per_channel
from .input_statistics import InputStatistics, collect_statistics
from .session import QuantizeSession
from .smoothquant import smooth_factors

__all__ = ["Scaler"]

GroupStatistics = Mapping[tuple[str, ...], InputStatistics]
"""Input statistics of each group of linear layers that share an input."""


class Scaler:
    """Scales decoder layers, one after the other.

    Args:
        session: the options, and where changed tensors are left.
        dtype: type in which norms and biases will be stored.
    """

    def __init__(self, session: QuantizeSession, dtype: torch.dtype) -> None:
        self.session = session
        self.dtype = dtype

    def collect_and_scale(
        self, layer: Layer, module: nn.Module, states: Activations, call: LayerCall
    ) -> GroupStatistics:
        """Run a layer once, scale it, and return its input statistics after scaling."""
        options = self.session.options
        wants_hessian = options.scaling == "awq" or options.method == "awq"
        groups = layer.input_groups
        with bf16_products(self.session.bf16):
            statistics = collect_statistics(module, groups, states, call, wants_hessian)
            return self._scale(layer, module, statistics)

    def _scale(
        self, layer: Layer, module: nn.Module, statistics: GroupStatistics
    ) -> GroupStatistics:
        """Scale a layer by the statistics of its inputs, and return the statistics after scaling.

        Tensors that change and are not packed go to `session.changed`.
        """
        if self.session.options.scaling == "none":
            return statistics
        after = dict(statistics)
        for fold in layer.folds:
            factors = self._factors(layer, module, fold, statistics[fold.readers])
            input_factors = apply_fold(module, fold, factors, self.dtype)
            after[fold.readers] = statistics[fold.readers].divided(input_factors)
        for fold in layer.folds:
            self._keep_changed(layer, module, fold)
        return after

    def _scheme(self, layer: Layer, name: str) -> Scheme | None:
        return self.session.options.scheme(layer.full(name))

    def _factors(
        self, layer: Layer, module: nn.Module, fold: Fold, inputs: InputStatistics
    ) -> Tensor:
        """The factors [channels of the writer] of a fold; ones if no reader is quantized."""
        options = self.session.options
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

    def _keep_changed(self, layer: Layer, module: nn.Module, fold: Fold) -> None:
        """Put the tensors that a fold changed and that are not packed in `session.changed`."""
        writer = module.get_submodule(fold.writer)
        changed = self.session.changed
        if fold.norm:
            changed[layer.key(fold.writer)] = weight_of(writer)
        if isinstance(bias := getattr(writer, "bias", None), Tensor):
            changed[layer.key(fold.writer, "bias")] = bias.detach()
        for name in (*fold.readers, *(() if fold.norm else (fold.writer,))):
            if self._scheme(layer, name) is None:
                changed[layer.key(name)] = weight_of(module.get_submodule(name))
