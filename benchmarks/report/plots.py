"""Drawings for a report: inline SVG whose text is text and whose colours follow the page, light or dark.

Every function draws one, from plain numbers and names (`figures` says which ones a run has). Colours are written as
CSS variables of the page (`--series-1`, `--good`, ...) with a mid-tone to fall back on; text takes the colour around it.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

__all__ = ["Point", "bars", "curve", "dots", "heat_map", "scatter", "short"]

INK, LINE, ACCENT, GOOD, BAD = "#7b818b", "#a9aeb8", "#4c7df0", "#2f9e6b", "#d9534a"
SERIES = (ACCENT, "#e08a2c", "#2a9fb0", "#b565c9", "#8a9a2f", "#d6608f")
MARKERS = "osD^vP"
VARIABLES = {
    INK: "currentColor",
    LINE: "var(--line, #a9aeb8)",
    GOOD: "var(--good, #2f9e6b)",
    BAD: "var(--bad, #d9534a)",
} | {colour: f"var(--series-{number}, {colour})" for number, colour in enumerate(SERIES, 1)}
WIDTH = 360.0  # of every figure, in SVG units (points): one column of a wide page, the whole width of a phone
FONT = 11.0
GLYPH = 0.56 * FONT  # about the width of a letter
MAX_POINTS = 300
STYLE: Any = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": FONT,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "edgewright",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Point:
    """One measured step: its name, where it lies, the standard error upwards and downwards, and whether it is on the front."""

    label: str
    x: float
    y: float
    error: float = 0.0
    front: bool = True


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph .* missing from font"
        )  # the reader's browser draws the letters
        yield


def short(name: str, limit: int = 20) -> str:
    """A name that fits beside a drawing, its middle left out if need be."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    return (
        clean
        if len(clean) <= limit
        else f"{clean[: limit // 2]}…{clean[-(limit - limit // 2 - 1) :]}"
    )


def _canvas(
    height: float, left: float, right: float = 8, top: float = 8, bottom: float = 26
) -> tuple[Figure, Axes]:
    """A transparent figure with one pair of axes; all lengths in SVG units."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # one pixel is one SVG unit
    figure.patch.set_visible(False)
    box = (
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - top - bottom) / height,
    )
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Steps from top to bottom, as the chain runs."""
    axes.set_yticks(range(len(labels)), labels=[short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _margin(labels: Sequence[str]) -> float:
    return 12 + GLYPH * max((len(short(label)) for label in labels), default=0)


def bars(
    labels: Sequence[str],
    values: Sequence[float],
    texts: Sequence[str],
    title: str,
    *,
    less_is_better: bool,
) -> str:
    """A waterfall: one bar a step, and what that step took away (hollow) or added (full), green when it is for the better."""
    with _style():
        figure, axes = _canvas(28 * len(labels) + 10, _margin(labels), bottom=2)
        top = max([*values, 1e-12])
        widest = GLYPH * max(len(text) for text in texts) / (WIDTH - _margin(labels))
        axes.set_xlim(0, top / max(0.95 - widest, 0.3))
        for row, value in enumerate(values):
            before = values[row - 1] if row else value
            low, high = sorted((value, before))
            axes.barh(row, low, height=0.6, color=ACCENT)
            if high > low:
                better = (value < before) == less_is_better
                colour = GOOD if better else BAD
                face = to_rgba(colour, 1.0 if value > before else 0.16)
                axes.barh(
                    row,
                    high - low,
                    left=low,
                    height=0.6,
                    facecolor=face,
                    edgecolor=colour,
                    linewidth=0.8,
                )
            axes.text(
                high + axes.get_xlim()[1] * 0.015, row, short(texts[row], 40), va="center_baseline"
            )
        _rows(axes, labels)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return _inline(figure, title)


def dots(
    labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], title: str
) -> str:
    """Steps downwards, a line for each series: value and standard error of each step, or nothing where it is None."""
    with _style():
        legend = len(series) > 1
        top = 10 + (20 * ((len(series) + 1) // 2) if legend else 0)
        figure, axes = _canvas(28 * len(labels) + 26 + top, _margin(labels), right=14, top=top)
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
                label=short(name, 24),
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
        return _inline(figure, title)


def scatter(points: Sequence[Point], title: str, x_label: str, y_label: str) -> str:
    """One dot a step with its name beside it; those on the front are full and joined. Far-reaching sizes are logarithmic."""
    with _style():
        figure, axes = _canvas(240, 56, right=14, bottom=42)
        xs, ys = [p.x for p in points], [p.y for p in points]
        errors = [p.error for p in points]
        axes.grid()
        front = sorted((p.x, p.y) for p in points if p.front)
        axes.plot(
            [x for x, _ in front],
            [y for _, y in front],
            color=INK,
            linewidth=0.9,
            alpha=0.7,
            linestyle=(0, (3, 3)),
        )
        for full in (True, False):
            some = [p for p in points if p.front == full]
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
        low, high = (
            min(y - e for y, e in zip(ys, errors, strict=True)),
            max(y + e for y, e in zip(ys, errors, strict=True)),
        )
        pad = (high - low or abs(high) or 1.0) * 0.2
        axes.set_ylim(low - pad, high + pad)
        _spread(axes, xs)
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(short(x_label, 48))
        axes.set_ylabel(short(y_label, 30))
        _label_points(axes, points)
        return _inline(figure, title)


def _spread(axes: Axes, xs: Sequence[float]) -> None:
    """Limits of the x axis with room for names; logarithmic where the values reach over more than a factor of 4."""
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
    """Write each name where it covers neither a dot, its error bar nor another name, trying many places around its dot."""
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
        label = short(point.label)
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


def heat_map(
    importance: Sequence[Sequence[float]],
    pruned: Sequence[Sequence[int]],
    title: str,
    names: Sequence[str] = (),
) -> str:
    """Layers downwards, heads across; the fuller the colour the more important the head, and a cross on each pruned one.

    With `names` the columns are not heads, and carry these.
    """
    with _style():
        heads = max(len(layer) for layer in importance)
        cell = min((WIDTH - 48) / heads, 30.0)
        bottom = 40 + (GLYPH * max(map(len, names)) if names else 0)
        figure, axes = _canvas(
            cell * len(importance) + 4 + bottom,
            40,
            right=WIDTH - 40 - cell * heads,
            top=4,
            bottom=bottom,
        )
        known = [value for layer in importance for value in layer if math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=1.0)
        squares, faces = [], []
        for row, layer in enumerate(importance):
            for column, value in enumerate(layer):
                if math.isfinite(value):
                    a, b, c, d = column + 0.05, row + 0.05, column + 0.95, row + 0.95
                    squares.append([(a, b), (c, b), (c, d), (a, d)])
                    faces.append(
                        to_rgba(ACCENT, 0.08 + 0.92 * ((value - low) / ((high - low) or 1.0)))
                    )
        axes.add_collection(
            PolyCollection(squares, facecolors=faces, edgecolors="none"), autolim=False
        )
        marks = [
            (head + 0.5, row + 0.5)
            for row, gone in enumerate(pruned[: len(importance)])
            for head in gone
        ]
        across, down = [m[0] for m in marks], [m[1] for m in marks]
        axes.plot(
            across,
            down,
            "x",
            color=BAD,
            markersize=cell * 0.42,
            markeredgewidth=max(cell * 0.06, 0.8),
        )
        axes.set_xlim(0, heads)
        axes.set_ylim(len(importance), 0)
        for axis, count in ((axes.xaxis, heads), (axes.yaxis, len(importance))):
            ticks = range(0, count, max(1, math.ceil(count * 16 / (cell * count))))
            axis.set_ticks([tick + 0.5 for tick in ticks], labels=[str(tick) for tick in ticks])
            axis.set_tick_params(length=0)
        if names:
            axes.set_xticks(
                [at + 0.5 for at in range(heads)],
                labels=[short(name) for name in names],
                rotation=90,
            )
        axes.set_xlabel("" if names else "head")
        axes.set_ylabel("layer")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _inline(figure, title)


def curve(values: Sequence[float], title: str) -> str:
    """A loss over the training steps: each value faintly, their moving average in full; logarithmic when it falls far."""
    with _style():
        figure, axes = _canvas(190, 60, right=14, bottom=40)
        bucket = math.ceil(len(values) / MAX_POINTS)
        parts = [values[i : i + bucket] for i in range(0, len(values), bucket)]
        means = [sum(part) / len(part) for part in parts]
        steps = [1 + i * bucket + (len(part) - 1) / 2 for i, part in enumerate(parts)]
        reach = max(1, len(means) // 20)
        windows = [means[max(0, i - reach) : i + reach + 1] for i in range(len(means))]
        axes.grid()
        axes.plot(steps, means, color=ACCENT, linewidth=1.0, alpha=0.35)
        axes.plot(steps, [sum(window) / len(window) for window in windows], color=ACCENT)
        if min(values) > 0 and max(values) / min(values) > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        else:
            axes.locator_params(axis="y", nbins=5)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.set_xlabel("training step")
        axes.set_ylabel("loss")
        return _inline(figure, title)


def _inline(figure: Figure, title: str) -> str:
    """The figure as one `<svg>` for HTML: no size, no styles of its own, page colours, ids that no other figure has."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    root = ET.fromstring(buffer.getvalue())  # matplotlib's own output
    prefix = (
        "f" + hashlib.sha256((title + buffer.getvalue()).encode(errors="replace")).hexdigest()[:8]
    )
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', buffer.getvalue()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {
            name.rpartition("}")[2]: _attribute(value) for name, value in element.attrib.items()
        }
        _prefix_ids(element, prefix, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": short(title, 120), "class": "plot"}
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _attribute(value: str) -> str:
    value = re.sub(r"#[0-9a-f]{6}\b", lambda match: VARIABLES.get(match[0], match[0]), value)
    value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
    value = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
    return " ".join(value.split())


def _prefix_ids(element: ET.Element, prefix: str, used: set[str]) -> None:
    name = element.attrib.pop("id", None)
    if name in used:
        element.attrib["id"] = f"{prefix}-{name}"
    for key in ("clip-path", "href"):
        if "#" in element.attrib.get(key, ""):
            element.attrib[key] = element.attrib[key].replace("#", f"#{prefix}-", 1)
