"""Shared by all plots: style and colours, an empty pair of axes, and the way to inline SVG.

Text stays text. Colours are CSS variables of the page (`--series-1`, `--good`, ...) so that they
follow its light or dark theme, with a mid-tone as the fallback. Text takes the colour of the text
around it.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "BAD",
    "FONT",
    "GLYPH",
    "GOOD",
    "INK",
    "MARKERS",
    "SERIES",
    "WIDTH",
    "inline_svg",
    "new_axes",
    "plot_style",
    "shorten",
]

INK = "#7b818b"
LINE = "#a9aeb8"
ACCENT = "#4c7df0"
GOOD = "#2f9e6b"
BAD = "#d9534a"
SERIES = (ACCENT, "#e08a2c", "#2a9fb0", "#b565c9", "#8a9a2f", "#d6608f")
MARKERS = "osD^vP"
COLOUR_VARIABLES = {
    INK: "currentColor",
    LINE: "var(--line, #a9aeb8)",
    GOOD: "var(--good, #2f9e6b)",
    BAD: "var(--bad, #d9534a)",
} | {colour: f"var(--series-{number}, {colour})" for number, colour in enumerate(SERIES, 1)}
WIDTH = 360.0
"""Of every plot, in SVG units (points): one column of a wide page, or the width of a phone."""
FONT = 11.0
GLYPH = 0.56 * FONT
"""About the width of a letter."""
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


@contextmanager
def plot_style() -> Iterator[None]:
    """Matplotlib's settings for the plots of a report."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # The reader's browser draws the letters, so the font here does not need them.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def shorten(name: str, limit: int = 20) -> str:
    """A name that fits beside a plot; the middle of a long one is left out."""
    clean = "".join(c if c.isprintable() else " " for c in name)
    if len(clean) <= limit:
        return clean
    return f"{clean[: limit // 2]}…{clean[-(limit - limit // 2 - 1) :]}"


def new_axes(
    height: float, left: float, right: float = 8, top: float = 8, bottom: float = 26
) -> tuple[Figure, Axes]:
    """A transparent figure with one pair of axes. All lengths are in SVG units."""
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


def inline_svg(figure: Figure, title: str) -> str:
    """The figure as one `<svg>` element for HTML: page colours, ids that are unique on the page."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=no_metadata)
    root = ET.fromstring(buffer.getvalue())  # nosec B314  # matplotlib's own output
    content = (title + buffer.getvalue()).encode(errors="replace")
    prefix = "f" + hashlib.sha256(content).hexdigest()[:8]
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
    root.attrib |= {"role": "img", "aria-label": shorten(title, 120), "class": "plot"}
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _attribute(value: str) -> str:
    """An SVG attribute with the page's colours and font, and short numbers."""
    value = re.sub(r"#[0-9a-f]{6}\b", lambda match: COLOUR_VARIABLES.get(match[0], match[0]), value)
    value = re.sub(r"font-family: [^;]*", "font-family: inherit", value)
    value = re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", value)
    return " ".join(value.split())


def _prefix_ids(element: ET.Element, prefix: str, used: set[str]) -> None:
    """Make the ids that are referred to unique on the page, and drop the others."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.attrib["id"] = f"{prefix}-{name}"
    for key in ("clip-path", "href"):
        if "#" in element.attrib.get(key, ""):
            element.attrib[key] = element.attrib[key].replace("#", f"#{prefix}-", 1)
