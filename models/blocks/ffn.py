"""The gated FFN: down(activation(gate(x)) * up(x))."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from .cut_axis import CutAxis
from .fold import Fold
from .linear import Linear, stored
from .norm import Norm

__all__ = ["GatedFFN", "gated_ffn"]


@dataclass(frozen=True)
class GatedFFN:
    """A gated FFN.

    Attributes:
        name: its module.
        gate, up, down: the projections; gate and up may be stored as one.
        activation: silu, gelu_tanh, or the name in config.json.
    """

    name: str
    gate: Linear
    up: Linear
    down: Linear
    activation: str

    @property
    def size(self) -> int:
        """Neurons."""
        return self.up.out_features

    @property
    def linears(self) -> tuple[Linear, ...]:
        """See `Block.linears`."""
        return stored((self.gate, self.up, self.down))

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """See `Block.input_groups`."""
        readers = stored((self.gate, self.up))
        return tuple(reader.name for reader in readers), (self.down.name,)

    @property
    def output(self) -> str:
        """See `Block.output`."""
        return self.down.name

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """See `Block.cut_axes`."""
        return (
            CutAxis(self.gate.stored_name, "neurons", 0, first=self.gate.first_row),
            CutAxis(self.up.stored_name, "neurons", 0, first=self.up.first_row),
            CutAxis(self.down.name, "neurons", 1),
        )

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

    def folds(self, norm: Norm) -> tuple[Fold, ...]:
        """See `Block.folds`."""
        readers, outputs = self.input_groups
        return (
            Fold(readers, norm.name, norm=True, offset=norm.offset),
            Fold(outputs, self.up.stored_name, norm=False, first=self.up.first_row),
        )

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """See `Block.linear_counts`."""
        return dict.fromkeys(self.linears, 1)


def gated_ffn(
    name: str,
    projections: tuple[str, str, str],
    sizes: tuple[int, int],
    activation: str,
    biased: Collection[str] = (),
) -> GatedFFN:
    """A gated FFN from its names and sizes.

    Args:
        name: its module.
        projections: names of the gate, up and down projections within it.
        sizes: neurons, and width of the residual stream.
        activation: see `GatedFFN`.
        biased: which of `gate`, `up` and `down` have a bias.
    """
    gate, up, down = (f"{name}.{projection}" for projection in projections)
    size, width = sizes
    return GatedFFN(
        name,
        Linear(gate, size, width, "gate" in biased),
        Linear(up, size, width, "up" in biased),
        Linear(down, width, size, "down" in biased),
        activation,
    )
