"""The interface of the blocks of a decoder layer.

A new kind of block is one more file here, with a class that has these members. All names are
relative to the decoder layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .cut_axis import CutAxis
from .fold import Fold
from .linear import Linear
from .norm import Norm

__all__ = ["FFN", "Block", "Mixer"]


class Block(Protocol):
    """A block between a norm and the residual stream."""

    @property
    def name(self) -> str:
        """Its module in memory."""
        ...

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its linear layers as files store them, in order of execution; routers are left out."""
        ...

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """Its linear modules in order of execution, those that read the same input together.

        The projections of routed experts are no modules, so they are not here.
        """
        ...

    @property
    def output(self) -> str | None:
        """The linear module that writes to the residual stream; None: no single module does."""
        ...

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """The axes of its weights that shrink when heads or neurons are removed."""
        ...

    @property
    def routers(self) -> tuple[str, ...]:
        """Names in files of the layers that choose and weigh experts; never quantized."""
        ...

    @property
    def parameters(self) -> int:
        """How many parameters it has: weights, biases, routers and norms inside it."""
        ...

    @property
    def depth(self) -> int:
        """Linear layers that a token passes one after the other."""
        ...

    def folds(self, norm: Norm | None) -> tuple[Fold, ...]:
        """Where scales on its inputs can be folded, given the norm before it, if there is one."""
        ...

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """How many linear layers there are of each kind; the experts are one kind.

        Args:
            tokens: count only the experts that this many tokens are expected to use; None: all.
        """
        ...


class Mixer(Block, Protocol):
    """A block that moves information between positions."""

    def state_elements(self, tokens: int, *, whole: bool = False) -> int:
        """Elements of KV cache or state that a sequence of this many tokens needs.

        Args:
            tokens: of the sequence.
            whole: a layer with a window keeps all of them, as our graphs do.
        """
        ...

    def decode_macs(self, context: int) -> int:
        """Multiply-adds of one token, apart from linear layers, with `context` tokens cached."""
        ...

    def prefill_macs(self, prompt: int) -> int:
        """Multiply-adds of a whole prompt, apart from linear layers."""
        ...


class FFN(Block, Protocol):
    """A block that works on every position by itself."""
