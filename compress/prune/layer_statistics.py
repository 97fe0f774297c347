"""What a criterion may use to score a decoder layer: weights, and means over tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...models import AttentionSizes, Layer, weight_of

__all__ = ["LayerStatistics", "observing"]


@dataclass
class LayerStatistics:
    """One decoder layer, as a criterion sees it. All tensors come back in float32 on the CPU.

    Attributes:
        module: the decoder layer, with its weights loaded.
        layer: its description.
        seed: of a criterion that draws random numbers; another one for every layer.
        tokens: calibration tokens that went through the layer.
        sums: by output projection, the sum over tokens of what `LayerCriterion.observe` returns.
    """

    module: nn.Module
    layer: Layer
    seed: int
    tokens: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    @property
    def attention_sizes(self) -> AttentionSizes:
        """Numbers of heads, and channels of a head."""
        return self.layer.attention.sizes

    @property
    def neurons(self) -> int:
        """Number of FFN neurons; 0 for a layer of experts."""
        return self.layer.dense_ffn.size if self.layer.dense_ffn else 0

    @property
    def attention_output(self) -> Tensor:
        """Weight of the attention's output projection [width, heads * head_dim]."""
        return self._weight(self.layer.attention.o.name)

    @property
    def values(self) -> Tensor:
        """Weight of the value projection [kv_heads * head_dim, width]."""
        linear = self.layer.attention.v
        return self._weight(linear.stored_name)[linear.rows]

    @property
    def ffn_output(self) -> Tensor:
        """Weight of the FFN's output projection [width, neurons]; not for a layer of experts."""
        return self._weight(self._down)

    @property
    def head_mean(self) -> Tensor:
        """Mean over tokens of what the criterion observes at the attention's output projection."""
        return self._mean(self.layer.attention.o.name)

    @property
    def neuron_mean(self) -> Tensor:
        """Mean over tokens of what the criterion observes at the FFN's output projection."""
        return self._mean(self._down)

    @property
    def _down(self) -> str:
        assert self.layer.dense_ffn, "the neurons of experts are not scored"
        return self.layer.dense_ffn.down.name

    def _weight(self, name: str) -> Tensor:
        return weight_of(self.module.get_submodule(name)).float().cpu()

    def _mean(self, name: str) -> Tensor:
        return self.sums[name].cpu() / max(self.tokens, 1)


@contextmanager
def observing(
    statistics: LayerStatistics, observe: Callable[[Tensor, int], Tensor] | None
) -> Iterator[None]:
    """While this lasts, add up what `observe` makes of the inputs of the output projections.

    Args:
        statistics: of the layer that runs; its `sums` grow.
        observe: see `LayerCriterion.observe`; None: nothing is added up.
    """
    if observe is None:
        yield
        return
    layer = statistics.layer
    sizes = {layer.attention.o.name: layer.attention.sizes.head_dim}
    if layer.dense_ffn:
        sizes[layer.dense_ffn.down.name] = 1
    handles = [
        statistics.module.get_submodule(name).register_forward_pre_hook(
            _adder(statistics.sums, name, size, observe)
        )
        for name, size in sizes.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(
    sums: dict[str, Tensor], name: str, size: int, observe: Callable[[Tensor, int], Tensor]
) -> Any:
    """A hook on an output projection whose inputs have `size` channels for each head or neuron."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen = observe(args[0].float(), size).flatten(0, -2).sum(0)
        sums[name] = sums[name] + seen if name in sums else seen

    return hook
