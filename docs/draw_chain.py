"""Draws docs/pictures/chain.svg: the steps of the demo, with what was measured after each of them.

The numbers are those of the table in docs/start.md. Run `python -m edgewright.docs.write_all` after
the table has changed; a test fails while the picture is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from .import_graph import ROOT

__all__ = ["PAGE", "PICTURE", "picture", "rows"]

PAGE = ROOT / "docs" / "start.md"
PICTURE = ROOT / "docs" / "pictures" / "chain.svg"
STEPS = {
    "baseline": "the model as it is",
    "prune": "fewer heads",
    "distill": "a smaller student",
    "quantize": "4 bits a weight",
    "export-int4": "for ONNX Runtime",
}
"""The steps that are drawn, and what each of them makes."""
BARS = {
    "exact match": ("right answers", "{:.0%}"),
    "size MB": ("size", "{:.1f} MB"),
    "decode tok/s": ("tokens/s", "{:,.0f}"),
}
"""By column of the table: the label of a bar and the format of its number."""
WIDTH = 1000
HEIGHT = 286
BOX_WIDTH = 172
BOX_HEIGHT = 206
GAP = 28
TOP = 20
BAR_WIDTH = 140
STYLE = """
  svg { background: #ffffff; font-family: Helvetica, Arial, sans-serif; }
  .box { fill: #f5f8fc; stroke: #2f5d8a; stroke-width: 1.2; }
  text { fill: #16293c; font-size: 13px; }
  .name { font-size: 17px; font-weight: bold; }
  .small { font-size: 12px; fill: #47596b; }
  .value { font-weight: bold; text-anchor: end; }
  .back { fill: #dbe4ee; }
  .bar { fill: #2f6fb0; }
  path { fill: none; stroke: #47596b; stroke-width: 1.6; marker-end: url(#head); }
  marker path { fill: #47596b; stroke: none; marker-end: none; }
"""


def rows() -> dict[str, dict[str, str]]:
    """The table of docs/start.md: step -> column -> what stands there."""
    lines = re.findall(r"^\| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    start = next(number for number, line in enumerate(lines) if line.startswith("step | "))
    columns = lines[start].split(" | ")
    found = (line.split(" | ") for line in lines[start + 1 :])
    return {cells[0]: dict(zip(columns, cells, strict=True)) for cells in found}


def _number(text: str) -> float:
    return float(text.partition(" ")[0].replace(",", ""))


def _box(left: float, step: str, values: dict[str, float], most: dict[str, float]) -> Iterator[str]:
    """One step: its name, what it makes, and a bar for each column."""
    yield (
        f'<rect class="box" x="{left:.0f}" y="{TOP}" width="{BOX_WIDTH}" '
        f'height="{BOX_HEIGHT}" rx="8"/>'
    )
    inside = left + (BOX_WIDTH - BAR_WIDTH) / 2
    yield f'<text class="name" x="{inside:.0f}" y="{TOP + 28}">{escape(step)}</text>'
    yield f'<text class="small" x="{inside:.0f}" y="{TOP + 46}">{escape(STEPS[step])}</text>'
    for number, (column, (label, form)) in enumerate(BARS.items()):
        top = TOP + 76 + 44 * number
        length = max(2, BAR_WIDTH * values[column] / most[column])
        right = inside + BAR_WIDTH
        yield f'<text class="small" x="{inside:.0f}" y="{top}">{label}</text>'
        yield f'<text class="value" x="{right:.0f}" y="{top}">{form.format(values[column])}</text>'
        yield (
            f'<rect class="back" x="{inside:.0f}" y="{top + 6}" width="{BAR_WIDTH}" height="9"/>'
            f'<rect class="bar" x="{inside:.0f}" y="{top + 6}" width="{length:.0f}" height="9"/>'
        )


def _lines() -> Iterator[str]:
    """The picture, line by line."""
    table = rows()
    values = {step: {name: _number(table[step][name]) for name in BARS} for step in STEPS}
    most = {name: max(one[name] for one in values.values()) for name in BARS}
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'aria-label="Accuracy, size and speed of the built-in model after each step">'
    )
    yield f"<style>{STYLE}</style>"
    yield (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
    )
    for number, step in enumerate(STEPS):
        left = 14 + number * (BOX_WIDTH + GAP)
        yield from _box(left, step, values[step], most)
        if number:
            middle = TOP + BOX_HEIGHT / 2
            yield f'<path d="M{left - GAP + 2:.0f},{middle:.0f} L{left - 2:.0f},{middle:.0f}"/>'
    yield (
        f'<text class="small" x="14" y="{TOP + BOX_HEIGHT + 26}">Measured by '
        "make demo on the built-in model with 7 million parameters, on two cores of a CPU.</text>"
    )
    yield (
        f'<text class="small" x="14" y="{TOP + BOX_HEIGHT + 44}">Speeds are those of torch, and '
        "in the last box of ONNX Runtime.</text>"
    )
    yield "</svg>"


def picture() -> str:
    """The text of the picture as it should be now."""
    return "\n".join(_lines()) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
