"""The description of a linear layer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Linear"]


@dataclass(frozen=True)
class Linear:
    """A linear layer, y = W x + b with W [out_features, in_features].

    Attributes:
        name: within its decoder layer, as files spell it; `*` stands for the number of an expert.
        out_features: outputs.
        in_features: inputs.
        bias: whether it has a bias [out_features].
        fused: the tensor in files that holds this weight and others; None: it has its own tensor.
    """

    name: str
    out_features: int
    in_features: int
    bias: bool = False
    fused: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight, (out_features, in_features)."""
        return self.out_features, self.in_features

    @property
    def weights(self) -> int:
        """Elements of the weight matrix."""
        return self.out_features * self.in_features

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.weights + (self.out_features if self.bias else 0)
