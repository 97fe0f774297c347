"""Scales for the input channels of a decoder layer's linear layers, found and folded before any of them is rounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...models import Family, Fold, weight_of
from ..calibration.activation_buffer import Activations
from ..calibration.layer_inputs import LayerCall
from .awq import awq_factors
from .fold import apply_fold, channels_of, per_channel
from .input_statistics import Inputs, observe
from .options import QuantizeOptions
from .smoothquant import smooth_factors

if TYPE_CHECKING:
    from .sequential import Run

__all__ = ["Scaler"]

Seen = Mapping[tuple[str, ...], Inputs]


class Scaler:
    """Scales decoder layers, one after the other.

    Args:
        run: the options, and where what changes is left.
        family: of the model.
        config: its config.json.
        dtype: what norms and biases will be stored in.
    """

    def __init__(
        self, run: Run, family: Family, config: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        self.run, self.family, self.dtype = run, family, dtype
        self.folds = family.folds(config)

    def look(self, index: int, layer: nn.Module, states: Activations, call: LayerCall) -> Seen:
        """Run a layer once, scale it, and say what its linear layers are given then."""
        options = self.run.options
        gram = options.scaling == "awq" or options.method == "awq"
        return self.scaled(
            index, layer, observe(layer, self.family.input_groups, states, call, gram)
        )

    def scaled(self, index: int, layer: nn.Module, seen: Seen) -> Seen:
        """Scale a layer that was given what was `seen`; tensors that change and are not packed go to `run.changed`."""
        if self.run.options.scaling == "none":
            return seen
        after = dict(seen)
        for fold in self.folds:
            factors = self._factors(index, layer, fold, seen[fold.readers])
            after[fold.readers] = seen[fold.readers].divided(
                apply_fold(layer, fold, factors, self.dtype)
            )
        for fold in self.folds:
            self._keep(index, layer, fold)
        return after

    def _full(self, index: int, name: str, part: str) -> str:
        return self.family.key(index, name, part)

    def _scheme(self, index: int, name: str) -> Any:
        return self.run.options.scheme(self.family.full(index, name))

    def _factors(self, index: int, layer: nn.Module, fold: Fold, inputs: Inputs) -> Tensor:
        options: QuantizeOptions = self.run.options
        channels = channels_of(fold, len(inputs.peak)).to(inputs.peak.device)
        weights = {name: weight_of(layer.get_submodule(name)) for name in fold.readers}
        readers = [
            (weight, scheme)
            for name, weight in weights.items()
            if (scheme := self._scheme(index, name))
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

    def _keep(self, index: int, layer: nn.Module, fold: Fold) -> None:
        writer, changed = layer.get_submodule(fold.writer), self.run.changed
        if fold.norm:
            changed[self._full(index, fold.writer, "weight")] = weight_of(writer)
        elif isinstance(bias := getattr(writer, "bias", None), Tensor):
            changed[self._full(index, fold.writer, "bias")] = bias.detach()
        for name in (*fold.readers, *(() if fold.norm else (fold.writer,))):
            if self._scheme(index, name) is None:
                changed[self._full(index, name, "weight")] = weight_of(layer.get_submodule(name))
