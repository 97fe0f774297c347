"""The estimator's residuals for people: a Markdown table by engine and device, and a plot as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from .fitting import Crossed
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
WIDTH, HEIGHT, LEFT, TOP, PLOT_W, PLOT_H = 760, 420, 60, 24, 540, 340
LARGEST = 2.5
"""Factor of estimate over measurement at the edge of the plot; what is beyond sits on the edge."""


def markdown(result: Mapping[str, Any]) -> str:
    """The table of median absolute percentage errors, all rows first, then by engine and by device."""
    lines = [f"| | rows | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
    lines.append(_line("**all**", result["rows"], result["median_ape"]))
    for key in ("by_engine", "by_device"):
        lines += [_line(name, entry["rows"], entry) for name, entry in result[key].items()]
    shares = result["band_coverage"]
    lines += [
        "",
        "Held-out measurements inside the stated 80 % band: "
        + ", ".join(f"{shares[name]:.0%} ({COLUMNS[name]})" for name in shares)
        + ".",
    ]
    return "\n".join(lines)


def _line(name: str, rows: int, errors: Mapping[str, float]) -> str:
    return f"| {name} | {rows} | {' | '.join(f'{errors[column]:.1%}' for column in COLUMNS)} |"


def plot(rows: Sequence[Row], crossed: Crossed, path: Path) -> None:
    """Estimate over measurement against measured rate, each model held out: a circle a row, a colour an engine."""
    engines = sorted({row.engine for row in rows})
    colours = dict(zip(engines, COLOURS, strict=False))
    rates = np.log10([row.decode_tok_s for row in rows])
    low, high = math.floor(rates.min()), math.ceil(rates.max())

    def x(rate: float) -> float:
        return LEFT + PLOT_W * (math.log10(rate) - low) / (high - low)

    def y(log: float) -> float:
        edge = math.log(LARGEST)
        return TOP + PLOT_H * (0.5 - min(max(log, -edge), edge) / (2 * edge))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<rect x="{LEFT}" y="{TOP}" width="{PLOT_W}" height="{PLOT_H}" fill="none" stroke="#999"/>',
    ]
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        at, dash = y(math.log(factor)), "" if factor == 1 else ' stroke-dasharray="4 4"'
        parts.append(f'<path d="M{LEFT} {at:.1f}h{PLOT_W}" stroke="#bbb"{dash}/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{factor:g}×</text>')
    parts.extend(
        f'<text x="{x(10**decade):.1f}" y="{TOP + PLOT_H + 18}" text-anchor="middle">{10**decade:g}</text>'
        for decade in range(low, high + 1)
    )
    parts.append(
        f'<text x="{LEFT + PLOT_W / 2}" y="{HEIGHT - 16}" text-anchor="middle">measured decode speed, tokens a second</text>'
    )
    parts.append(
        f'<text x="{LEFT}" y="16">estimated / measured, with the row\'s model left out of the fit</text>'
    )
    parts.extend(
        f'<circle cx="{x(row.decode_tok_s):.1f}" cy="{y(float(log)):.1f}" r="4" fill="{colours[row.engine]}" fill-opacity="0.6"/>'
        for row, log in zip(rows, crossed.model, strict=True)
        if row.batch == 1
    )
    for i, engine in enumerate(engines):
        at = TOP + 10 + 20 * i
        parts.append(
            f'<circle cx="{LEFT + PLOT_W + 18}" cy="{at}" r="5" fill="{colours[engine]}"/>'
        )
        parts.append(f'<text x="{LEFT + PLOT_W + 30}" y="{at + 4}">{escape(engine)}</text>')
    path.write_text("\n".join([*parts, "</svg>\n"]), encoding="utf-8")
