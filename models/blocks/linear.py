"""The description of a linear layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

__all__ = ["Linear", "fused", "stored"]


@dataclass(frozen=True)
class Linear:
    """A linear layer, y = W x + b with W [out_features, in_features].

    Attributes:
        name: within its decoder layer, as files spell it; `*` stands for the number of an expert.
        out_features: outputs.
        in_features: inputs.
        bias: whether it has a bias [out_features].
        fused: the linear layer in files that holds this one and others; None: it is its own.
        first_row: of `fused`, its first output.
    """

    name: str
    out_features: int
    in_features: int
    bias: bool = False
    fused: str | None = None
    first_row: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight, (out_features, in_features)."""
        return self.out_features, self.in_features

    @property
    def stored_name(self) -> str:
        """The name of the linear layer in files that holds it."""
        return self.fused or self.name

    @property
    def rows(self) -> slice:
        """Its outputs in the linear layer `stored_name`."""
        return slice(self.first_row, self.first_row + self.out_features)

    @property
    def weights(self) -> int:
        """Elements of the weight matrix."""
        return self.out_features * self.in_features

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.weights + (self.out_features if self.bias else 0)


def fused(name: str | None, *linears: Linear) -> Sequence[Linear]:
    """Linear layers as parts of one that is stored, one after the other.

    Args:
        name: of the stored one; None: each is stored by itself.
        linears: they read the same input.
    """
    if name is None:
        return linears
    parts: list[Linear] = []
    for linear in linears:
        first = parts[-1].rows.stop if parts else 0
        parts.append(replace(linear, fused=name, first_row=first))
    return parts


def stored(linears: Iterable[Linear]) -> tuple[Linear, ...]:
    """The linear layers in files that hold these, in order."""
    found: dict[str, Linear] = {}
    for linear in linears:
        name = linear.stored_name
        before = found[name].out_features if name in found else 0
        found[name] = Linear(name, before + linear.out_features, linear.in_features, linear.bias)
    return tuple(found.values())
