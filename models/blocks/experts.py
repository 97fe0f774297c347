"""An FFN of many experts, a few of which a router chooses for each token.

Files hold one tensor for each expert and projection. In memory transformers 5 keeps all experts of
a layer in two fused tensors (see `expert_storage`), so an expert is not a module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .cut_axis import CutAxis
from .ffn import DenseFFN, make_ffn
from .fold import Fold
from .linear import Linear
from .norm import Norm

__all__ = ["ExpertsFFN"]


@dataclass(frozen=True)
class ExpertsFFN:
    """A routed FFN.

    Attributes:
        name: its module in memory.
        file_name: what files call that module.
        projections: names in files of an expert's gate, up and down projection.
        hidden_size: width of the residual stream.
        size: neurons of an expert.
        count: experts.
        per_token: experts that each token goes to.
        renormalize: whether the weights of a token's experts are made to sum to one.
        activation: see `DenseFFN`.
        shared: the expert that every token goes through beside its own; None: there is none.
    """

    name: str
    file_name: str
    projections: tuple[str, str, str]
    hidden_size: int
    size: int
    count: int
    per_token: int
    renormalize: bool
    activation: str
    shared: DenseFFN | None = None

    @property
    def router(self) -> str:
        """The module that sends tokens to experts."""
        return f"{self.name}.gate"

    @property
    def pool(self) -> str:
        """The module of all experts, called with tokens, their experts' numbers, and weights."""
        return f"{self.name}.experts"

    @property
    def routers(self) -> tuple[str, ...]:
        """See `Block.routers`: the router, and the gate of one output beside the shared expert."""
        shared = (f"{self.shared.name}_gate",) if self.shared else ()
        return (f"{self.file_name}.gate", *shared)

    def expert(self, number: int | str) -> DenseFFN:
        """One expert, with its names in files; `*` for any of them."""
        return make_ffn(
            f"{self.file_name}.experts.{number}",
            self.projections,
            (self.size, self.hidden_size),
            self.activation,
        )

    def expert_of(self, name: str) -> tuple[int, str] | None:
        """Number and projection of the expert that a name in files belongs to, else None.

        `mlp.experts.3.up_proj` belongs to (3, "up_proj").
        """
        found = re.fullmatch(rf"{re.escape(self.file_name)}\.experts\.(\d+)\.(\w+)", name)
        return (int(found[1]), found[2]) if found else None

    def expert_name(self, number: int, projection: str) -> str:
        """The inverse of `expert_of`."""
        return f"{self.file_name}.experts.{number}.{projection}"

    def used_by(self, tokens: int) -> float:
        """How many experts this many tokens are expected to use, if all are equally likely."""
        return self.count * (1 - (1 - self.per_token / self.count) ** tokens)

    @property
    def linears(self) -> tuple[Linear, ...]:
        """See `Block.linears`: the gates of all experts, all `up`, all `down`, the shared one."""
        experts = [self.expert(number).linears for number in range(self.count)]
        routed = tuple(linear for part in zip(*experts, strict=True) for linear in part)
        return routed + (self.shared.linears if self.shared else ())

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """See `Block.input_groups`: those of the shared expert."""
        return self.shared.input_groups if self.shared else ()

    @property
    def output(self) -> None:
        """See `Block.output`."""
        return None

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """See `Block.cut_axes`: experts are removed whole."""
        return ()

    @property
    def parameters(self) -> int:
        """See `Block.parameters`."""
        shared = self.shared.parameters + self.hidden_size if self.shared else 0
        return self.count * (self.expert("*").parameters + self.hidden_size) + shared

    @property
    def depth(self) -> int:
        """See `Block.depth`; the shared expert runs beside the others."""
        return self.expert("*").depth

    def folds(self, norm: Norm | None) -> tuple[Fold, ...]:
        """See `Block.folds`: none, because the router reads the norm as well."""
        return ()

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """See `Block.linear_counts`."""
        used = self.count if tokens is None else self.used_by(tokens)
        counts: dict[Linear, float] = dict.fromkeys(self.expert("*").linears, used)
        return {**counts, **self.shared.linear_counts(tokens)} if self.shared else counts
