"""One decoder layer: a mixer and an FFN, each between a norm and the residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import Refused
from .blocks import FFN, Attention, CutAxis, DenseFFN, ExpertsFFN, Fold, Linear, Mixer, Norm

__all__ = ["Branch", "Layer"]


@dataclass(frozen=True)
class Branch:
    """A block on the residual stream; it adds scale * post_norm(block(norm(stream))) to it.

    Attributes:
        norm: None: the block reads the stream itself.
        block: the block.
        post_norm: None: there is none.
        scale: factor of what it adds.
        beside: whether it reads the stream as it was before the branch in front of it.
    """

    norm: Norm | None
    block: Mixer | FFN
    post_norm: Norm | None = None
    scale: float = 1.0
    beside: bool = False


@dataclass(frozen=True)
class Layer:
    """A decoder layer. Most of what it says is the sum over its two blocks.

    Attributes:
        index: its number in the model.
        name: its full name in files.
        mixer: the block that moves information between positions.
        ffn: the block that works on every position by itself.
        mixer_norm, ffn_norm: the norms before them; None: there are none.
        mixer_post_norm, ffn_post_norm: the norms behind them; None: there are none.
        residual_scale: factor of what the blocks add to the residual stream.
        parallel: whether both blocks read what `mixer_norm` gives; there is no `ffn_norm` then.
    """

    index: int
    name: str
    mixer: Mixer
    ffn: FFN
    mixer_norm: Norm | None
    ffn_norm: Norm | None
    mixer_post_norm: Norm | None = None
    ffn_post_norm: Norm | None = None
    residual_scale: float = 1.0
    parallel: bool = False

    @property
    def branches(self) -> tuple[Branch, Branch]:
        """Mixer and FFN with the norms around them, in order of execution."""
        return (
            Branch(self.mixer_norm, self.mixer, self.mixer_post_norm, self.residual_scale),
            Branch(
                self.mixer_norm if self.parallel else self.ffn_norm,
                self.ffn,
                self.ffn_post_norm,
                self.residual_scale,
                self.parallel,
            ),
        )

    @property
    def attention(self) -> Attention:
        """The mixer, where it is attention.

        Raises:
            Refused: it is another kind of mixer.
        """
        if not isinstance(self.mixer, Attention):
            raise Refused(
                f"{self.name}: this needs attention, and the layer has none",
                "use a model with attention in every layer",
            )
        return self.mixer

    @property
    def dense_ffn(self) -> DenseFFN | None:
        """The FFN, where it is dense; None where it is experts."""
        return self.ffn if isinstance(self.ffn, DenseFFN) else None

    @property
    def experts(self) -> ExpertsFFN | None:
        """The FFN, where it is experts; None where it is dense."""
        return self.ffn if isinstance(self.ffn, ExpertsFFN) else None

    @property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers as files store them; routers are left out."""
        return self.mixer.linears + self.ffn.linears

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """The linear modules in order of execution, those that read the same input together.

        The projections of routed experts are no modules, so they are not here.
        """
        if not self.parallel:
            return self.mixer.input_groups + self.ffn.input_groups
        readers, *others = self.mixer.input_groups
        ffn_readers, *ffn_others = self.ffn.input_groups
        return (readers + ffn_readers, *others, *ffn_others)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The linear modules that write to the residual stream."""
        return tuple(name for name in (self.mixer.output, self.ffn.output) if name)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Where scales on the inputs of `input_groups` can be folded."""
        if not self.parallel or self.mixer_norm is None:
            return self.mixer.folds(self.mixer_norm) + self.ffn.folds(self.ffn_norm)
        norm, others = self.mixer_norm, self.mixer.folds(None) + self.ffn.folds(None)
        readers = self.input_groups[0]
        return (Fold(readers, norm.name, norm=True, offset=norm.offset), *others)

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """The axes of its weights that shrink when heads or neurons are removed."""
        return self.mixer.cut_axes + self.ffn.cut_axes

    @property
    def routers(self) -> tuple[str, ...]:
        """Linear layers, by their names in files, that choose and weigh experts."""
        return self.mixer.routers + self.ffn.routers

    @property
    def parameters(self) -> int:
        """How many parameters it has, norms and biases included."""
        norms = (self.mixer_norm, self.mixer_post_norm, self.ffn_norm, self.ffn_post_norm)
        blocks = self.mixer.parameters + self.ffn.parameters
        return blocks + sum(norm.parameters for norm in norms if norm)

    @property
    def depth(self) -> int:
        """Linear layers that a token passes one after the other."""
        return self.mixer.depth + self.ffn.depth

    def linear_counts(self, tokens: int | None = None) -> dict[Linear, float]:
        """How many linear layers there are of each kind; see `Block.linear_counts`."""
        counts: Mapping[Linear, float] = self.mixer.linear_counts(tokens)
        return {**counts, **self.ffn.linear_counts(tokens)}

    def full(self, name: str) -> str:
        """The full name of something in this layer."""
        return f"{self.name}.{name}"

    def key(self, name: str, part: str = "weight") -> str:
        """The state-dict key of a tensor of this layer."""
        return f"{self.name}.{name}.{part}"
