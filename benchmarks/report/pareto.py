"""The Pareto front: what nothing else beats in one respect without losing in another."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["on_front", "towards_ideal"]

Values = Sequence[float]
"""The objectives of one candidate, each of them the better the larger."""


def on_front(points: Sequence[Values]) -> list[bool]:
    """Of each candidate, whether no other is at least as good in everything and better in something; equal ones share the front."""
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: Values, other: Values) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def towards_ideal(points: Sequence[Values]) -> int:
    """The position of the candidate nearest to having the best of everything, each objective scaled to its range among them.

    The range is that of the candidates given: give the front. The first of several that are as near.
    """
    columns = list(zip(*points, strict=True))
    spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]

    def distance(at: int) -> float:
        return sum(
            (1 - (value - low) / span) ** 2
            for value, (low, span) in zip(points[at], spans, strict=True)
        )

    return min(range(len(points)), key=distance)
