"""A dense FFN: down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x)))."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .cut_axis import CutAxis
from .fold import Fold
from .linear import Linear, fused, stored
from .norm import Norm

__all__ = ["DenseFFN", "make_ffn"]


@dataclass(frozen=True)
class DenseFFN:
    """A dense FFN.

    Attributes:
        name: its module.
        gate: the projection that the activation is applied to; None: it is applied to `up`.
        up, down: the other projections; gate and up may be stored as one.
        activation: silu, gelu, gelu_tanh, relu2, or the name in config.json.
    """

    name: str
    gate: Linear | None
    up: Linear
    down: Linear
    activation: str

    @property
    def size(self) -> int:
        """Neurons."""
        return self.up.out_features

    @property
    def readers(self) -> tuple[Linear, ...]:
        """The projections that read the input of the block."""
        return (self.gate, self.up) if self.gate else (self.up,)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """See `Block.linears`."""
        return stored((*self.readers, self.down))

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """See `Block.input_groups`."""
        return tuple(linear.name for linear in stored(self.readers)), (self.down.name,)

    @property
    def output(self) -> str:
        """See `Block.output`."""
        return self.down.name

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """See `Block.cut_axes`."""
        outputs = (
            CutAxis(linear.stored_name, "neurons", 0, first=linear.first_row)
            for linear in self.readers
        )
        return (*outputs, CutAxis(self.down.name, "neurons", 1))

    @property
    def routers(self) -> tuple[str, ...]:
        """See `Block.routers`."""
        return ()

    @property
    def parameters(self) -> int:
        """See `Block.parameters`."""
        return sum(linear.parameters for linear in self.linears)

    @property
    def depth(self) -> int:
        """See `Block.depth`."""
        return 2

    def folds(self, norm: Norm | None) -> tuple[Fold, ...]:
        """See `Block.folds`; without a gate, the activation stands between `up` and `down`."""
        readers, outputs = self.input_groups
        found = (Fold(readers, norm.name, norm=True, offset=norm.offset),) if norm else ()
        value = Fold(outputs, self.up.stored_name, norm=False, first=self.up.first_row)
        return (*found, value) if self.gate else found

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """See `Block.linear_counts`."""
        return dict.fromkeys(self.linears, 1)


def make_ffn(
    name: str,
    projections: tuple[str | None, str, str],
    sizes: tuple[int, int],
    activation: str,
    biased: Collection[str] = (),
    fused_gate_up: str | None = None,
) -> DenseFFN:
    """A dense FFN from its names and sizes.

    Args:
        name: its module.
        projections: names of the gate, up and down projections within it; None: it has no gate.
        sizes: neurons, and width of the residual stream.
        activation: see `DenseFFN`.
        biased: which of `gate`, `up` and `down` have a bias.
        fused_gate_up: the linear layer that gate and up are stored as; None: they are two.
    """
    gate, up, down = projections
    size, width = sizes
    readers = [Linear(f"{name}.{up}", size, width, "up" in biased)]
    if gate:
        readers.insert(0, Linear(f"{name}.{gate}", size, width, "gate" in biased))
    readers = fused(fused_gate_up, *readers)
    return DenseFFN(
        name,
        readers[0] if gate else None,
        readers[-1],
        Linear(f"{name}.{down}", width, size, "down" in biased),
        activation,
    )
