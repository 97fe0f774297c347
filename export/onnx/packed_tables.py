"""A packed embedding and a packed head in ONNX Runtime's operators.

The rows with 8 bits, which are first and last in the vocabulary, are one weight, and the rare rows
between them with 4 bits another (`models.packed_tables`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...checkpoints.layouts import PackedLinear
from ...models.packed_tables import BLOCKS, rare_rows
from .builder import GraphBuilder
from .fused_linears import FusedLinears, Plane
from .rounding import rounded

__all__ = ["PackedTable", "PackedTables", "pack_table"]


@dataclass(frozen=True)
class PackedTable:
    """An embedding or a head in integers.

    Attributes:
        main: all rows but the rare ones.
        rare: the rare rows; None: there are none.
        rare_rows: their numbers.
    """

    main: PackedLinear
    rare: PackedLinear | None = None
    rare_rows: range = range(0)


def pack_table(weight: torch.Tensor, name: str) -> PackedTable:
    """Round an embedding or a head [vocabulary, hidden] to 8 bits, its rare rows to 4.

    Args:
        weight: of any floating-point type.
        name: its name, for messages.

    Raises:
        Refused: its width does not divide into blocks.
    """
    rare = rare_rows(len(weight))
    if not rare:
        return PackedTable(rounded(weight, name, 8, BLOCKS[8]))
    main = torch.cat([weight[: rare.start], weight[rare.stop :]])
    return PackedTable(
        rounded(main, name, 8, BLOCKS[8]),
        rounded(weight[rare.start : rare.stop], name, 4, BLOCKS[4]),
        rare,
    )


@dataclass(frozen=True)
class _StoredTable:
    """A table in the graph: the planes of its two parts, and how many rows it has."""

    main: Sequence[Plane]
    rare: Sequence[Plane]
    rare_rows: range

    @property
    def last_rows(self) -> int:
        """Rows after the rare ones."""
        return self.main[0].outputs - self.rare_rows.start


class PackedTables:
    """Writes a packed embedding and a packed head. A tied head reads the embedding's bytes.

    Args:
        graph: what nodes and weights are added to.
        linears: writes the products of this graph.
    """

    def __init__(self, graph: GraphBuilder, linears: FusedLinears) -> None:
        self._graph, self._linears = graph, linears
        self._embedding: _StoredTable | None = None

    @property
    def has_embedding(self) -> bool:
        """Whether an embedding was written."""
        return self._embedding is not None

    def embed(self, ids: str, table: PackedTable, name: str) -> str:
        """The rows `ids` of a new embedding."""
        self._embedding = self._store(table, name, blocked=False)
        return self._rows(ids, self._embedding)

    def head(self, value: str, table: PackedTable, name: str) -> str:
        """`value` times a new head."""
        return self._product(value, self._store(table, name, blocked=True))

    def tied_head(self, value: str) -> str:
        """`value` times the embedding."""
        assert self._embedding, "see has_embedding"
        main, rare = (
            [self._linears.blocked(plane) for plane in planes]
            for planes in (self._embedding.main, self._embedding.rare)
        )
        return self._product(value, _StoredTable(main, rare, self._embedding.rare_rows))

    def _store(self, table: PackedTable, name: str, blocked: bool) -> _StoredTable:
        main = self._linears.store(table.main, f"{name}.weight", blocked)
        rare = self._linears.store(table.rare, f"{name}.weight.rare", blocked) if table.rare else []
        return _StoredTable(main, rare, table.rare_rows)

    def _rows(self, ids: str, table: _StoredTable) -> str:
        if not table.rare:
            return self._linears.rows(ids, table.main)
        g = self._graph
        zero = g.constant(0)
        count = len(table.rare_rows)
        place = g.node("Sub", ids, g.constant(table.rare_rows.start))
        in_rare = g.node("Clip", place, zero, g.constant(count - 1))
        # Without the rare rows before it. For a rare row, the first one after them.
        in_main = g.node("Sub", ids, g.node("Clip", place, zero, g.constant(count)))
        is_rare = g.node("Unsqueeze", g.node("Equal", place, in_rare), g.constant([-1]))
        return g.node(
            "Where",
            is_rare,
            self._linears.rows(in_rare, table.rare),
            self._linears.rows(in_main, table.main),
        )

    def _product(self, value: str, table: _StoredTable) -> str:
        main = self._linears.product(value, table.main)
        if not table.rare:
            return main
        g = self._graph
        sizes = g.constant([table.rare_rows.start, table.last_rows])
        first, last = g.nodes("Split", main, sizes, outputs=[None, None], axis=-1)
        rare = self._linears.product(value, table.rare)
        return g.node("Concat", first, rare, last, axis=-1)
