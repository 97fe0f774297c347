"""Numbers as text for reports and model cards."""

from __future__ import annotations

import math

__all__ = ["DASH", "compact_count", "significant"]

DASH = "–"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with this many significant digits; integers in full, a dash for None."""
    if value is None:
        return DASH
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if isinstance(value, int) or value == 0:
        return f"{value:,.0f}"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def compact_count(value: float) -> str:
    """A large count with its unit: `2.41 M`."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return significant(value / size) + unit
    return f"{value:.0f}"
