"""Grouped-query attention with rotary positions and a KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .cut_axis import CutAxis
from .fold import Fold
from .linear import Linear, stored
from .norm import Norm
from .rotary import PositionScale, Rotary

__all__ = ["Attention", "AttentionSizes"]


@dataclass(frozen=True)
class AttentionSizes:
    """The sizes of an attention block."""

    heads: int
    """Query heads."""
    kv_heads: int
    """Key/value heads."""
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class Attention:
    """One attention block.

    Attributes:
        name: its module.
        sizes: heads and their width.
        q, k, v, o: the projections; q, k and v may be stored as one.
        query_scale: what the product of query and key is multiplied by.
        rotary: its rotary positions; None: it does not know positions.
        window: positions that a token sees, itself included; 0: all before it.
        q_norm, k_norm: norms of queries and keys, each over one head or over all of them (`whole`).
        softcap: a tanh limits scores to ± this value; None: no limit.
        causal: whether a token sees only what is before it.
        norm_after_rotary: whether q_norm and k_norm come after the rotation; else before it.
        position_scale: of the query, after the rotation; None: no such scale.
    """

    name: str
    sizes: AttentionSizes
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    query_scale: float
    rotary: Rotary | None
    window: int = 0
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    softcap: float | None = None
    causal: bool = True
    norm_after_rotary: bool = False
    position_scale: PositionScale | None = None

    @property
    def whole(self) -> bool:
        """Whether q_norm norms all heads together, so that none can go without changing others."""
        return bool(self.q_norm) and self.q_norm.width > self.sizes.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """See `Block.linears`."""
        return stored((self.q, self.k, self.v, self.o))

    @property
    def input_groups(self) -> tuple[tuple[str, ...], ...]:
        """See `Block.input_groups`."""
        readers = stored((self.q, self.k, self.v))
        return tuple(reader.name for reader in readers), (self.o.name,)

    @property
    def output(self) -> str:
        """See `Block.output`."""
        return self.o.name

    @property
    def cut_axes(self) -> tuple[CutAxis, ...]:
        """See `Block.cut_axes`."""
        width = self.sizes.head_dim
        return (
            CutAxis(self.q.stored_name, "heads", 0, width, self.q.first_row),
            CutAxis(self.k.stored_name, "kv_heads", 0, width, self.k.first_row),
            CutAxis(self.v.stored_name, "kv_heads", 0, width, self.v.first_row),
            CutAxis(self.o.name, "heads", 1, width),
        )

    @property
    def routers(self) -> tuple[str, ...]:
        """See `Block.routers`."""
        return ()

    @property
    def parameters(self) -> int:
        """See `Block.parameters`."""
        norms = [norm for norm in (self.q_norm, self.k_norm) if norm]
        return sum(part.parameters for part in (*self.linears, *norms))

    @property
    def depth(self) -> int:
        """See `Block.depth`."""
        return 2

    def folds(self, norm: Norm | None) -> tuple[Fold, ...]:
        """See `Block.folds`; a value head serves every query head of its group."""
        sizes = self.sizes
        readers, outputs = self.input_groups
        found = (Fold(readers, norm.name, norm=True, offset=norm.offset),) if norm else ()
        value = Fold(
            outputs,
            self.v.stored_name,
            norm=False,
            repeat=sizes.group,
            head_dim=sizes.head_dim,
            first=self.v.first_row,
        )
        return (*found, value)

    def linear_counts(self, tokens: int | None = None) -> Mapping[Linear, float]:
        """See `Block.linear_counts`."""
        return dict.fromkeys(self.linears, 1)

    def seen(self, context: int) -> int:
        """How many of `context` positions the cache holds."""
        return min(context, self.window or context)

    def state_elements(self, tokens: int, *, whole: bool = False) -> int:
        """See `Mixer.state_elements`."""
        vectors = 2 * self.sizes.kv_heads * tokens if whole else self.state_vectors(tokens)
        return vectors * self.sizes.head_dim

    def state_vectors(self, tokens: int) -> int:
        """Keys and values, each [head_dim], in the cache of a sequence of this many tokens."""
        return 2 * self.sizes.kv_heads * self.seen(tokens)

    def decode_macs(self, context: int) -> int:
        """See `Mixer.decode_macs`: scores, and the mean of the values."""
        return self.state_elements(context) * self.sizes.group

    def prefill_macs(self, prompt: int) -> int:
        """See `Mixer.prefill_macs`; a token sees what is before it and within the window."""
        seen = self.seen(prompt)
        return 2 * self.sizes.heads * self.sizes.head_dim * (prompt * seen - seen**2 // 2)
