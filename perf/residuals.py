"""Show the errors of the target estimator: a Markdown table by engine and device, and a plot."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .bands import Crossed
from .published import Row

__all__ = ["markdown", "plot"]

COLUMNS = {
    "in_sample": "in sample",
    "leave_one_model_out": "model left out",
    "leave_one_device_out": "device left out",
    "leave_one_engine_out": "engine left out",
    "leave_one_model_out_shape_inferred": "model left out, shape inferred",
}
COLOURS = (
    "#1b6ca8",
    "#c44536",
    "#3a7d44",
    "#7b4ea3",
    "#c98a1b",
    "#20857f",
    "#6b6b6b",
    "#a83279",
    "#000000",
)
PAGE_COLUMNS = 120
WIDTH = 760
HEIGHT = 420
LEFT = 60
TOP = 24
PLOT_WIDTH = 540
PLOT_HEIGHT = 340
LARGEST = 2.5
"""Ratio of estimate to measurement at the edge of the plot. Larger errors are drawn at the edge."""


def markdown(result: Mapping[str, Any]) -> str:
    """The table of median absolute percentage errors: all rows, then by kind, engine and device."""
    lines = [f"| | rows | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    lines.append(_line("**all**", result["rows"], result["median_ape"]))
    for key in ("by_kind", "by_engine", "by_device"):
        lines += [_line(name, entry["rows"], entry) for name, entry in result[key].items()]
    shares = result["band_coverage"]
    lines += [
        "",
        *textwrap.wrap(
            "Held-out measurements inside the stated 80 % band: "
            + ", ".join(f"{shares[name]:.0%} ({COLUMNS[name]})" for name in shares)
            + ".",
            PAGE_COLUMNS,
        ),
    ]
    return "\n".join(lines)


def _line(name: str, rows: int, errors: Mapping[str, float]) -> str:
    return f"| {name} | {rows} | {' | '.join(f'{errors[column]:.1%}' for column in COLUMNS)} |"


def plot(rows: Sequence[Row], crossed: Crossed, path: Path) -> None:
    """Plot estimate / measurement against the measured rate, each model left out of its fit.

    A circle is a row, a colour is an engine.
    """
    engines = sorted({row.engine for row in rows})
    colours = dict(zip(engines, COLOURS, strict=False))
    rates = np.log10([row.decode_tok_s for row in rows])
    low = math.floor(rates.min())
    high = math.ceil(rates.max())

    def x(rate: float) -> float:
        return LEFT + PLOT_WIDTH * (math.log10(rate) - low) / (high - low)

    def y(log: float) -> float:
        edge = math.log(LARGEST)
        return TOP + PLOT_HEIGHT * (0.5 - min(max(log, -edge), edge) / (2 * edge))

    parts = [*_frame(), *_grid(range(low, high + 1), x, y)]
    parts.extend(
        f'<circle cx="{x(row.decode_tok_s):.1f}" cy="{y(float(log)):.1f}" r="4" '
        f'fill="{colours[row.engine]}" fill-opacity="0.6"/>'
        for row, log in zip(rows, crossed.model, strict=True)
    )
    for i, engine in enumerate(engines):
        at = TOP + 10 + 20 * i
        left = LEFT + PLOT_WIDTH
        parts.append(f'<circle cx="{left + 18}" cy="{at}" r="5" fill="{colours[engine]}"/>')
        parts.append(f'<text x="{left + 30}" y="{at + 4}">{escape(engine)}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")


def _frame() -> list[str]:
    """The beginning of the SVG file: background and border of the plot."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" fill="none" '
        'stroke="#999"/>',
    ]


def _grid(decades: range, x: Callable[[float], float], y: Callable[[float], float]) -> list[str]:
    """Lines and labels of the axes."""
    parts: list[str] = []
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        at = y(math.log(factor))
        dash = "" if factor == 1 else ' stroke-dasharray="4 4"'
        parts.append(f'<path d="M{LEFT} {at:.1f}h{PLOT_WIDTH}" stroke="#bbb"{dash}/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{factor:g}×</text>')
    parts.extend(
        f'<text x="{x(10**decade):.1f}" y="{TOP + PLOT_HEIGHT + 18}" text-anchor="middle">'
        f"{10**decade:g}</text>"
        for decade in decades
    )
    parts.append(
        f'<text x="{LEFT + PLOT_WIDTH / 2}" y="{HEIGHT - 16}" text-anchor="middle">'
        "measured decode speed, tokens a second</text>"
    )
    parts.append(
        f'<text x="{LEFT}" y="16">estimated / measured, with the row\'s model left out of the fit'
        "</text>"
    )
    return parts
