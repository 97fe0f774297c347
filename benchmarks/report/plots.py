"""Bars, dots, heat maps and curves, drawn from plain numbers and names, as inline SVG.

`charts.py` decides which plots a run has; `scatter_plot.py` draws trade-offs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba

from .drawing import (
    ACCENT,
    BAD,
    GLYPH,
    GOOD,
    MARKERS,
    SERIES,
    WIDTH,
    inline_svg,
    new_axes,
    plot_style,
    shorten,
)

__all__ = ["bars", "curve", "dots", "heat_map"]

MAX_POINTS = 300
"""Most points of a curve; longer ones are averaged in buckets."""


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Label the rows of the plot with the steps, from top to bottom."""
    axes.set_yticks(range(len(labels)), labels=[shorten(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _margin(labels: Sequence[str]) -> float:
    """The width that the labels on the left need."""
    return 12 + GLYPH * max((len(shorten(label)) for label in labels), default=0)


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    before: Sequence[float],
    texts: Sequence[str],
    title: str,
    *,
    less_is_better: bool,
) -> str:
    """A waterfall: one bar per step, with what the step took away (hollow) or added (full).

    The difference is green where it is an improvement.

    Args:
        labels: names of the steps.
        values: of the steps.
        before: the values that the steps started from; a step's own value shows no difference.
        texts: what is written behind the bars.
        title: of the plot.
        less_is_better: whether a smaller value is an improvement.
    """
    with plot_style():
        figure, axes = new_axes(28 * len(labels) + 10, _margin(labels), bottom=2)
        top = max([*values, 1e-12])
        widest = GLYPH * max(len(text) for text in texts) / (WIDTH - _margin(labels))
        axes.set_xlim(0, top / max(0.95 - widest, 0.3))
        for row, (value, old) in enumerate(zip(values, before, strict=True)):
            low, high = sorted((value, old))
            axes.barh(row, low, height=0.6, color=ACCENT)
            if high > low:
                _difference(axes, row, old, value, less_is_better=less_is_better)
            axes.text(
                high + axes.get_xlim()[1] * 0.015,
                row,
                shorten(texts[row], 40),
                va="center_baseline",
            )
        _rows(axes, labels)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return inline_svg(figure, title)


def _difference(axes: Axes, row: int, old: float, value: float, *, less_is_better: bool) -> None:
    """What a step took away (hollow) or added (full), green where that is an improvement."""
    colour = GOOD if (value < old) == less_is_better else BAD
    axes.barh(
        row,
        abs(value - old),
        left=min(value, old),
        height=0.6,
        facecolor=to_rgba(colour, 1.0 if value > old else 0.16),
        edgecolor=colour,
        linewidth=0.8,
    )


def dots(
    labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], title: str
) -> str:
    """Steps downwards, one line per series: value and standard error of each step.

    A step without a value in a series is None there.
    """
    with plot_style():
        legend = len(series) > 1
        top = 10 + (20 * ((len(series) + 1) // 2) if legend else 0)
        figure, axes = new_axes(28 * len(labels) + 26 + top, _margin(labels), right=14, top=top)
        axes.grid(axis="x")
        for number, (name, pairs) in enumerate(series.items()):
            shift = 0.16 * (number - (len(series) - 1) / 2)
            points = [
                (pair[0], pair[1], row + shift)
                for row, pair in enumerate(pairs)
                if pair is not None
            ]
            values, errors, rows = ([p[i] for p in points] for i in range(3))
            colour = SERIES[number % len(SERIES)]
            axes.plot(values, rows, color=colour, linewidth=1.2, alpha=0.45)
            axes.errorbar(
                values,
                rows,
                xerr=errors,
                fmt=MARKERS[number % len(MARKERS)],
                color=colour,
                markersize=5.5,
                elinewidth=1.4,
                label=shorten(name, 24),
            )
        _rows(axes, labels)
        axes.locator_params(axis="x", nbins=5)
        if legend:
            handles, names = axes.get_legend_handles_labels()
            corner = (-_margin(labels) / (WIDTH - _margin(labels) - 14), 1.0)
            axes.legend(
                handles,
                names,
                ncols=2,
                loc="lower left",
                bbox_to_anchor=corner,
                handletextpad=0.2,
                columnspacing=1.0,
            )
        return inline_svg(figure, title)


def heat_map(
    values: Sequence[Sequence[float]],
    crossed: Sequence[Sequence[int]],
    title: str,
    names: Sequence[str] = (),
) -> str:
    """Layers across, heads downwards; the fuller the colour, the larger the value.

    Args:
        values: one row per layer; NaN leaves a cell empty.
        crossed: for each layer, the heads that get a cross, e.g. the pruned ones.
        title: of the plot.
        names: of what a layer has one value each for, if these are not heads.
    """
    with plot_style():
        rows = max(len(layer) for layer in values)
        left = _margin(names) + 14 if names else 40
        cell = min((WIDTH - left - 4) / len(values), 30.0)
        figure, axes = new_axes(
            cell * rows + 44,
            left,
            right=WIDTH - left - cell * len(values),
            top=4,
            bottom=40,
        )
        axes.add_collection(_squares(values), autolim=False)
        marks = [
            (column + 0.5, row + 0.5)
            for column, layer in enumerate(crossed[: len(values)])
            for row in layer
        ]
        axes.plot(
            [x for x, _ in marks],
            [y for _, y in marks],
            "x",
            color=BAD,
            markersize=cell * 0.42,
            markeredgewidth=max(cell * 0.06, 0.8),
        )
        axes.set_xlim(0, len(values))
        axes.set_ylim(rows, 0)
        _number_cells(axes, len(values), rows, cell)
        if names:
            ticks = [at + 0.5 for at in range(rows)]
            axes.set_yticks(ticks, labels=[shorten(name) for name in names])
        axes.set_xlabel("layer")
        axes.set_ylabel("" if names else "head")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return inline_svg(figure, title)


def _squares(values: Sequence[Sequence[float]]) -> PolyCollection:
    """One square per value; its opacity grows from the smallest value to the largest."""
    known = [value for layer in values for value in layer if math.isfinite(value)]
    low = min(known, default=0.0)
    spread = (max(known, default=1.0) - low) or 1.0
    squares = []
    colours = []
    for column, layer in enumerate(values):
        for row, value in enumerate(layer):
            if math.isfinite(value):
                left = column + 0.05
                right = column + 0.95
                top = row + 0.05
                bottom = row + 0.95
                squares.append([(left, top), (right, top), (right, bottom), (left, bottom)])
                colours.append(to_rgba(ACCENT, 0.08 + 0.92 * ((value - low) / spread)))
    return PolyCollection(squares, facecolors=colours, edgecolors="none")


def _number_cells(axes: Axes, columns: int, rows: int, cell: float) -> None:
    """Number columns and rows; leave numbers out where a cell is too small for each to have one."""
    for axis, count in ((axes.xaxis, columns), (axes.yaxis, rows)):
        ticks = range(0, count, max(1, math.ceil(16 / cell)))
        axis.set_ticks([tick + 0.5 for tick in ticks], labels=[str(tick) for tick in ticks])
        axis.set_tick_params(length=0)


def curve(values: Sequence[float], title: str, held_out: Sequence[tuple[float, float]] = ()) -> str:
    """A loss over the training steps: its values (faint) and their moving average.

    The y axis is logarithmic where the loss falls by more than a factor of 20.

    Args:
        values: one a step.
        title: of the plot.
        held_out: steps done, and the loss on held-out rows after them.
    """
    with plot_style():
        figure, axes = new_axes(190, 60, right=14, bottom=40)
        bucket = math.ceil(len(values) / MAX_POINTS)
        parts = [values[i : i + bucket] for i in range(0, len(values), bucket)]
        means = [sum(part) / len(part) for part in parts]
        steps = [1 + i * bucket + (len(part) - 1) / 2 for i, part in enumerate(parts)]
        reach = max(1, len(means) // 20)
        windows = [means[max(0, i - reach) : i + reach + 1] for i in range(len(means))]
        axes.grid()
        axes.plot(steps, means, color=ACCENT, linewidth=1.0, alpha=0.35)
        axes.plot(steps, [sum(window) / len(window) for window in windows], color=ACCENT)
        held_out_losses = [loss for _, loss in held_out]
        axes.plot([step for step, _ in held_out], held_out_losses, "o-", color=SERIES[1])
        drawn = [*values, *held_out_losses]
        if min(drawn) > 0 and max(drawn) / min(drawn) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        else:
            axes.locator_params(axis="y", nbins=5)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        return inline_svg(figure, title)
