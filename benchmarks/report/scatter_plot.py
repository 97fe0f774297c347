"""Scatter plots whose dots have names, as inline SVG: what an accuracy costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from .drawing import ACCENT, FONT, GLYPH, INK, WIDTH, inline_svg, new_axes, plot_style, shorten

__all__ = ["Point", "scatter"]


@dataclass(frozen=True)
class Point:
    """One step in a scatter plot; `error` is the standard error of y."""

    label: str
    x: float
    y: float
    error: float = 0.0
    pareto_optimal: bool = True


def scatter(points: Sequence[Point], title: str, x_label: str, y_label: str) -> str:
    """One dot per step with its name beside it; those on the Pareto front are filled and joined.

    The x axis is logarithmic where the values differ by more than a factor of 4.
    """
    with plot_style():
        figure, axes = new_axes(240, 56, right=14, bottom=42)
        axes.grid()
        front = sorted((p.x, p.y) for p in points if p.pareto_optimal)
        axes.plot(
            [x for x, _ in front],
            [y for _, y in front],
            color=INK,
            linewidth=0.9,
            alpha=0.7,
            linestyle=(0, (3, 3)),
        )
        for full in (True, False):
            some = [p for p in points if p.pareto_optimal == full]
            axes.errorbar(
                [p.x for p in some],
                [p.y for p in some],
                yerr=[p.error for p in some],
                fmt="o",
                color=ACCENT,
                markersize=6.5,
                elinewidth=1.2,
                markerfacecolor=ACCENT if full else "none",
            )
        low = min(p.y - p.error for p in points)
        high = max(p.y + p.error for p in points)
        pad = (high - low or abs(high) or 1.0) * 0.2
        axes.set_ylim(low - pad, high + pad)
        _scale_x(axes, [p.x for p in points])
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(shorten(x_label, 48))
        axes.set_ylabel(shorten(y_label, 30))
        _label_points(axes, points)
        return inline_svg(figure, title)


def _scale_x(axes: Axes, xs: Sequence[float]) -> None:
    """Set the limits of the x axis with room for names; logarithmic beyond a factor of 4."""
    if min(xs) > 0 and max(xs) > 4 * min(xs):
        room = (max(xs) / min(xs)) ** 0.16
        axes.set_xscale("log")
        axes.set_xlim(min(xs) / room, max(xs) * room)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        return
    pad = (max(xs) - min(xs) or max(xs) or 1.0) * 0.14
    axes.set_xlim(min(xs) - pad, max(xs) + pad)
    axes.locator_params(axis="x", nbins=5)


Box = tuple[float, float, float, float]


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name at the first place around its dot that covers no dot, error bar or name."""
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    reach = [
        axes.transData.transform((p.x, p.y + p.error))[1] - y + 4
        for p, (_, y) in zip(points, centres, strict=True)
    ]
    taken: list[Box] = [
        (x - 4, y - up, x + 4, y + up) for (x, y), up in zip(centres, reach, strict=True)
    ]
    frame = axes.get_window_extent()
    for point, (x, y) in zip(points, centres, strict=True):
        label = shorten(point.label)
        width = GLYPH * len(label)
        places: list[tuple[float, float]] = [
            (x + 8, y - 5),
            (x - 8 - width, y - 5),
            (x - width / 2, y + 8),
            (x - width / 2, y - 19),
            (x + 6, y + 5),
            (x + 6, y - 16),
            (x - 6 - width, y + 5),
            (x - 6 - width, y - 16),
            *(
                (x - width * share, y + away)
                for away in (20, -31, 34, -45, 48, -59)
                for share in (0.5, 0.0, 1.0)
            ),
        ]
        boxes: list[Box] = [(a, b, a + width, b + FONT) for a, b in places]
        inside = [
            b
            for b in boxes
            if b[0] >= frame.x0 and b[2] <= WIDTH and b[1] >= frame.y0 and b[3] <= frame.y1
        ]
        box = next(
            (b for b in inside if not any(_overlap(b, other) for other in taken)),
            (inside or boxes)[0],
        )
        taken.append(box)
        axes.annotate(
            label,
            (point.x, point.y),
            (box[0] - x, box[1] + 2 - y),
            textcoords="offset points",
            annotation_clip=False,
        )


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
