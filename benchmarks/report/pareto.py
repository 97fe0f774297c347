"""The Pareto front: the candidates that no other candidate beats in every objective."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["nearest_to_ideal", "pareto_optimal"]

Values = Sequence[float]
"""The objectives of one candidate; larger is better in each of them."""


def pareto_optimal(points: Sequence[Values]) -> list[bool]:
    """For each candidate, whether it is on the Pareto front.

    It is not if another one is at least as good in every objective and better in one. Equal
    candidates are all on the front, or none is.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: Values, other: Values) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def nearest_to_ideal(points: Sequence[Values]) -> int:
    """The position of the candidate that is nearest to the best value of every objective.

    Each objective is scaled to its range among the candidates, so give only those on the front. Of
    several at the same distance, the first is chosen.
    """
    columns = list(zip(*points, strict=True))
    spans = [(min(column), max(column) - min(column) or 1.0) for column in columns]

    def distance(at: int) -> float:
        return sum(
            (1 - (value - low) / span) ** 2
            for value, (low, span) in zip(points[at], spans, strict=True)
        )

    return min(range(len(points)), key=distance)
