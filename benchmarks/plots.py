"""The figures of a report: inline SVG whose text is text and whose colours follow the page, light or dark.

`figures` says which ones a run has; every other function draws one, from plain numbers and names. Colours are written as
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
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

__all__ = ["Measured", "Plot", "Point", "bars", "curve", "dots", "figures", "heat_map", "scatter"]

INK, LINE, ACCENT, GOOD, BAD = "#7b818b", "#a9aeb8", "#4c7df0", "#2f9e6b", "#d9534a"
SERIES = (ACCENT, "#e08a2c", "#2a9fb0", "#b565c9", "#8a9a2f", "#d6608f")
MARKERS = "osD^vP"
VARIABLES = {INK: "currentColor", LINE: "var(--line, #a9aeb8)", GOOD: "var(--good, #2f9e6b)", BAD: "var(--bad, #d9534a)"} | {
    colour: f"var(--series-{number}, {colour})" for number, colour in enumerate(SERIES, 1)
}
WIDTH = 360.0  # of every figure, in SVG units (points): one column of a wide page, the whole width of a phone
FONT = 11.0
GLYPH = 0.56 * FONT  # about the width of a letter
MAX_POINTS = 300
MAX_NAMES = 6  # beside the dots of a scatter; more are numbered
STYLE: Any = {
    "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False,
    "font.size": FONT, "grid.color": LINE, "grid.linewidth": 0.6, "legend.frameon": False, "lines.linewidth": 1.8,
    "svg.fonttype": "none", "svg.hashsalt": "edgewright", "text.color": INK, "text.parse_math": False,
    "xtick.color": LINE, "xtick.labelcolor": INK, "ytick.color": LINE, "ytick.labelcolor": INK,
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One measured step: its name, where it lies, and the standard error upwards and downwards."""

    label: str
    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One step: its finite metrics, those that cannot be set beside the baseline's, and the details of its ledger entry."""

    name: str
    metrics: Mapping[str, float]
    unlike: frozenset[str]
    details: Mapping[str, Any]

    def fair(self, name: str) -> bool:
        """Whether the step has this metric, and it can be set beside the baseline's."""
        return name in self.metrics and name not in self.unlike


@dataclass(frozen=True)
class Plot:
    """A drawn figure, its heading, and what is to be known about it."""

    title: str
    caption: str
    svg: Markup


def figures(steps: Sequence[Measured], accuracies: Sequence[str]) -> list[Plot]:
    """Every figure that the numbers of a run allow, in the order of the report."""
    plots = [
        _accuracies(steps, accuracies),
        _waterfall(steps, "size_bytes", "Size", "MB", 1e-6, less_is_better=True),
        _waterfall(steps, "decode_tok_s/p50", "Decode speed", "tok/s", 1.0, less_is_better=False),
        *(_accuracy_against_size(steps, name) for name in accuracies),
    ]
    for step in steps:
        plots += [_importance(step), *_losses(step)]
    return [plot for plot in plots if plot is not None]


def _left_out(steps: Sequence[Measured], names: Sequence[str]) -> str:
    rest = ", ".join(step.name for step in steps if step.unlike & set(names))
    return f" Left out, since measured otherwise: {rest}." if rest else ""


def _accuracies(steps: Sequence[Measured], names: Sequence[str]) -> Plot | None:
    chosen = [step for step in steps if any(step.fair(name) for name in names)]
    if len(chosen) < 2:
        return None
    series = {
        name.partition("/")[2]: [
            (step.metrics[name], step.metrics.get(f"{name}/stderr", 0.0)) if step.fair(name) else None for step in chosen
        ]
        for name in names
    }
    title = "Accuracy" + (f" on {next(iter(series))}" if len(series) == 1 else "")
    caption = "Value and one standard error after each step." + _left_out(steps, names)
    return Plot(title, caption, Markup(dots([step.name for step in chosen], series, title)))


def _waterfall(steps: Sequence[Measured], name: str, title: str, unit: str, scale: float, *, less_is_better: bool) -> Plot | None:
    chosen = [step for step in steps if step.fair(name)]
    if len(chosen) < 2:
        return None
    values = [step.metrics[name] * scale for step in chosen]
    texts = [f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}" for value in values]
    if values[0]:
        texts[1:] = [f"{text}  {value / values[0]:.2f}×" for text, value in zip(texts[1:], values[1:], strict=True)]
    better, worse = ("smaller", "larger") if less_is_better else ("faster", "slower")
    caption = f"Each bar against the one above: green {better}, red {worse}. Factors are of the first." + _left_out(steps, [name])
    svg = bars([step.name for step in chosen], values, texts, title, less_is_better=less_is_better)
    return Plot(title, caption, Markup(svg))


def _accuracy_against_size(steps: Sequence[Measured], name: str) -> Plot | None:
    chosen = [step for step in steps if step.fair(name) and step.fair("size_bytes")]
    if len(chosen) < 2:
        return None
    names = [step.name for step in chosen]
    caption = "Up and to the left is better. The line follows the steps." + _left_out(steps, [name])
    if len(names) > MAX_NAMES:
        caption += " " + ", ".join(f"{number}\N{NO-BREAK SPACE}{label}" for number, label in enumerate(names, 1))
        names = [str(number) for number in range(1, len(names) + 1)]
    points = [
        Point(label, step.metrics["size_bytes"] / 1e6, step.metrics[name], step.metrics.get(f"{name}/stderr", 0.0))
        for label, step in zip(names, chosen, strict=True)
    ]
    title = f"Accuracy on {name.partition('/')[2]} against size"
    return Plot(title, caption, Markup(scatter(points, title, "size, MB", "accuracy")))


def _importance(step: Measured) -> Plot | None:
    layers = [[_real(value) for value in layer] for layer in step.details.get("head_importance") or []]
    known = [value for layer in layers for value in layer if math.isfinite(value)]
    if not known:
        return None
    pruned = [[int(head) for head in layer] for layer in step.details.get("pruned_heads") or []]
    gone = sum(map(len, pruned))
    title = f"Head importance: {step.name}"
    caption = f"From {min(known):.3g} (faint) to {max(known):.3g} (full). "
    caption += f"Crosses: the {gone} of {sum(map(len, layers))} heads that were pruned." if gone else "No head was pruned."
    return Plot(title, caption, Markup(heat_map(layers, pruned, title)))


def _losses(step: Measured) -> Iterator[Plot]:
    loss: Mapping[str, Sequence[Any]] = step.details.get("loss") or {}
    for stage, values in loss.items():
        finite = [value for value in map(_real, values) if math.isfinite(value)]
        if len(finite) > 1:
            title = f"Distillation loss: {step.name}, {stage}"
            end = sum(finite[-10:]) / len(finite[-10:])
            caption = f"From {finite[0]:.3g} to {end:.3g} (mean of the last ten) in {len(finite):,} steps."
            yield Plot(title, caption, Markup(curve(finite, title)))


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


@contextmanager
def _style() -> Iterator[None]:
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's browser draws the letters
        yield


def _short(name: str, limit: int = 20) -> str:
    clean = "".join(c if c.isprintable() else " " for c in name)
    return clean if len(clean) <= limit else f"{clean[: limit // 2]}…{clean[-(limit - limit // 2 - 1) :]}"


def _canvas(height: float, left: float, right: float = 8, top: float = 8, bottom: float = 26) -> tuple[Figure, Axes]:
    """A transparent figure with one pair of axes; all lengths in SVG units."""
    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)  # one pixel is one SVG unit
    figure.patch.set_visible(False)
    box = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Steps from top to bottom, as the chain runs."""
    axes.set_yticks(range(len(labels)), labels=[_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _margin(labels: Sequence[str]) -> float:
    return 12 + GLYPH * max((len(_short(label)) for label in labels), default=0)


def bars(labels: Sequence[str], values: Sequence[float], texts: Sequence[str], title: str, *, less_is_better: bool) -> str:
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
                axes.barh(row, high - low, left=low, height=0.6, facecolor=face, edgecolor=colour, linewidth=0.8)
            axes.text(high + axes.get_xlim()[1] * 0.015, row, _short(texts[row], 40), va="center_baseline")
        _rows(axes, labels)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return _inline(figure, title)


def dots(labels: Sequence[str], series: Mapping[str, Sequence[tuple[float, float] | None]], title: str) -> str:
    """Steps downwards, a line for each series: value and standard error of each step, or nothing where it is None."""
    with _style():
        legend = len(series) > 1
        top = 10 + (20 * ((len(series) + 1) // 2) if legend else 0)
        figure, axes = _canvas(28 * len(labels) + 26 + top, _margin(labels), right=14, top=top)
        axes.grid(axis="x")
        for number, (name, pairs) in enumerate(series.items()):
            shift = 0.16 * (number - (len(series) - 1) / 2)
            points = [(pair[0], pair[1], row + shift) for row, pair in enumerate(pairs) if pair is not None]
            values, errors, rows = ([p[i] for p in points] for i in range(3))
            colour = SERIES[number % len(SERIES)]
            axes.plot(values, rows, color=colour, linewidth=1.2, alpha=0.45)
            axes.errorbar(
                values, rows, xerr=errors, fmt=MARKERS[number % len(MARKERS)], color=colour, markersize=5.5,
                elinewidth=1.4, label=_short(name, 24),
            )  # fmt: skip
        _rows(axes, labels)
        axes.locator_params(axis="x", nbins=5)
        if legend:
            handles, names = axes.get_legend_handles_labels()
            corner = (-_margin(labels) / (WIDTH - _margin(labels) - 14), 1.0)
            axes.legend(handles, names, ncols=2, loc="lower left", bbox_to_anchor=corner, handletextpad=0.2, columnspacing=1.0)
        return _inline(figure, title)


def scatter(points: Sequence[Point], title: str, x_label: str, y_label: str) -> str:
    """One dot a step with its name beside it; a thin line joins the steps in the order of the chain."""
    with _style():
        figure, axes = _canvas(230, 52, right=14, bottom=42)
        xs, ys = [p.x for p in points], [p.y for p in points]
        errors = [p.error for p in points]
        axes.grid()
        axes.plot(xs, ys, color=INK, linewidth=0.9, alpha=0.7, linestyle=(0, (3, 3)))
        axes.errorbar(xs, ys, yerr=errors, fmt="o", color=ACCENT, markersize=6.5, elinewidth=1.2)
        low, high = min(y - e for y, e in zip(ys, errors, strict=True)), max(y + e for y, e in zip(ys, errors, strict=True))
        pad_x, pad_y = (max(xs) - min(xs) or max(xs) or 1.0) * 0.14, (high - low or abs(high) or 1.0) * 0.2
        axes.set_xlim(min(xs) - pad_x, max(xs) + pad_x)
        axes.set_ylim(low - pad_y, high + pad_y)
        axes.locator_params(nbins=5)
        axes.set_xlabel(_short(x_label, 48))
        axes.set_ylabel(_short(y_label, 30))
        _label_points(axes, points)
        return _inline(figure, title)


Box = tuple[float, float, float, float]


def _label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each name where it covers neither a dot, its error bar nor another name, trying ten places around its dot."""
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    reach = [axes.transData.transform((p.x, p.y + p.error))[1] - y + 4 for p, (_, y) in zip(points, centres, strict=True)]
    taken: list[Box] = [(x - 4, y - up, x + 4, y + up) for (x, y), up in zip(centres, reach, strict=True)]
    frame = axes.get_window_extent()
    for point, (x, y) in zip(points, centres, strict=True):
        label = _short(point.label)
        width = GLYPH * len(label)
        places: list[tuple[float, float]] = [
            (x + 8, y - 5), (x - 8 - width, y - 5), (x - width / 2, y + 8), (x - width / 2, y - 19), (x + 6, y + 5),
            (x + 6, y - 16), (x - 6 - width, y + 5), (x - 6 - width, y - 16), (x + 8, y - 30), (x + 8, y + 20),
        ]  # fmt: skip
        boxes: list[Box] = [(a, b, a + width, b + FONT) for a, b in places]
        inside = [b for b in boxes if b[0] >= frame.x0 and b[2] <= WIDTH and b[1] >= frame.y0 and b[3] <= frame.y1]
        box = next((b for b in inside if not any(_overlap(b, other) for other in taken)), (inside or boxes)[0])
        taken.append(box)
        axes.annotate(label, (point.x, point.y), (box[0] - x, box[1] + 2 - y), textcoords="offset points", annotation_clip=False)


def _overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def heat_map(importance: Sequence[Sequence[float]], pruned: Sequence[Sequence[int]], title: str) -> str:
    """Layers downwards, heads across; the fuller the colour the more important the head, and a cross on each pruned one."""
    with _style():
        heads = max(len(layer) for layer in importance)
        cell = min((WIDTH - 48) / heads, 30.0)
        figure, axes = _canvas(cell * len(importance) + 44, 40, right=WIDTH - 40 - cell * heads, top=4, bottom=40)
        known = [value for layer in importance for value in layer if math.isfinite(value)]
        low, high = min(known, default=0.0), max(known, default=1.0)
        squares, faces = [], []
        for row, layer in enumerate(importance):
            for column, value in enumerate(layer):
                if math.isfinite(value):
                    a, b, c, d = column + 0.05, row + 0.05, column + 0.95, row + 0.95
                    squares.append([(a, b), (c, b), (c, d), (a, d)])
                    faces.append(to_rgba(ACCENT, 0.08 + 0.92 * ((value - low) / ((high - low) or 1.0))))
        axes.add_collection(PolyCollection(squares, facecolors=faces, edgecolors="none"), autolim=False)
        marks = [(head + 0.5, row + 0.5) for row, gone in enumerate(pruned[: len(importance)]) for head in gone]
        across, down = [m[0] for m in marks], [m[1] for m in marks]
        axes.plot(across, down, "x", color=BAD, markersize=cell * 0.42, markeredgewidth=max(cell * 0.06, 0.8))
        axes.set_xlim(0, heads)
        axes.set_ylim(len(importance), 0)
        for axis, count in ((axes.xaxis, heads), (axes.yaxis, len(importance))):
            ticks = range(0, count, max(1, math.ceil(count * 16 / (cell * count))))
            axis.set_ticks([tick + 0.5 for tick in ticks], labels=[str(tick) for tick in ticks])
            axis.set_tick_params(length=0)
        axes.set_xlabel("head")
        axes.set_ylabel("layer")
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _inline(figure, title)


def curve(values: Sequence[float], title: str) -> str:
    """A loss over the training steps: each value faintly, their moving average in full; logarithmic when it falls far."""
    with _style():
        figure, axes = _canvas(190, 48, right=14, bottom=40)
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
    prefix = "f" + hashlib.sha256((title + buffer.getvalue()).encode(errors="replace")).hexdigest()[:8]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', buffer.getvalue()))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: _attribute(value) for name, value in element.attrib.items()}
        _prefix_ids(element, prefix, used)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": _short(title, 120), "class": "plot"}
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
