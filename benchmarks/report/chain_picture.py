"""Draws the chain of a run as inline SVG: a line of steps with branches, and what each one changed.

There is a wide form with columns and a narrow one for phones; the page shows the one that fits.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from ..plain_text import plain
from .chain import Change, Link, chain_sentence
from .drawing import shorten

__all__ = ["NARROW", "WIDE", "chain_svg"]

GAP = 14.0
"""Between a row and the next one."""
MOST_LANES = 8
"""Lines beside each other; further branches share the last one."""
MARKS = {"better": "+", "worse": "−", "open": "≈"}
COLUMNS = {"better": "bought", "worse": "cost", "open": "not clear"}


@dataclass(frozen=True)
class Form:
    """Sizes of one form, in SVG units.

    Attributes:
        name: class of the element.
        width: of the picture.
        font: size of the letters.
        names: width of the column with the names; 0: everything is below each other.
    """

    name: str
    width: float
    font: float
    names: float

    @property
    def line(self) -> float:
        """Height of a line of text."""
        return round(self.font * 1.5, 1)

    def letters(self, width: float) -> int:
        """About how many letters fit into a width."""
        return max(8, int(width / (0.56 * self.font)))


WIDE = Form("wide", 1120.0, 12.5, 190.0)
NARROW = Form("narrow", 360.0, 12.0, 0.0)


@dataclass(frozen=True)
class _Line:
    """A line of text at a place: `before` as it is, `value` strong."""

    x: float
    y: float
    tone: str
    before: str
    value: str = ""


def chain_svg(links: Sequence[Link], form: Form) -> str:
    """The picture as one `<svg>` element for HTML."""
    lanes = _lanes(links)
    step = min(18.0, 72.0 / (max(lanes, default=0) + 1))
    left = step * (max(lanes, default=0) + 1) + 8
    lines: list[_Line] = []
    tops: list[float] = []
    y = form.line if form.names else 0.0
    for link in links:
        tops.append(y)
        below = _row(link, form, left, y)
        lines += below
        y = max(one.y for one in below) + GAP
    if form.names:
        lines += [
            _Line(x, form.font, "head", COLUMNS[tone]) for tone, x in _columns(form, left).items()
        ]
    root = ET.Element(
        "svg",
        {
            "class": f"chain {form.name}",
            "viewBox": f"0 0 {form.width:g} {y:.0f}",
            "role": "img",
            "aria-label": plain(chain_sentence(links), 2000),
            "font-size": f"{form.font:g}",
        },
    )
    centres = [
        (6 + step * lane, top + form.line * 0.62) for lane, top in zip(lanes, tops, strict=True)
    ]
    _draw_rails(root, links, centres)
    for line in lines:
        _draw_text(root, line)
    return ET.tostring(root, encoding="unicode", short_empty_elements=False)


def _lanes(links: Sequence[Link]) -> list[int]:
    """The lane of each step: the first that starts from a step stays in its lane."""
    taken: set[str] = set()
    lanes: dict[str, int] = {}
    most = -1
    found = []
    for link in links:
        if link.parent in lanes and link.parent not in taken:
            lane = lanes[link.parent]
            taken.add(link.parent)
        else:
            most = min(most + 1, MOST_LANES - 1)
            lane = most
        lanes[link.name] = lane
        found.append(lane)
    return found


def _columns(form: Form, left: float) -> dict[str, float]:
    """Where the column of each outcome begins."""
    start = left + form.names
    return {
        tone: start + number * (form.width - start) / len(MARKS)
        for number, tone in enumerate(MARKS)
    }


def _row(link: Link, form: Form, left: float, top: float) -> list[_Line]:
    """The lines of text of one step; `y` of each is its lower edge."""
    room = form.names or form.width - left
    y = top + form.line
    role = f" ({link.role})" if link.role else ""
    name = shorten(link.name, form.letters(room) - len(role))
    made = shorten(link.made, form.letters(room))
    lines = [_Line(left, y, "name", "", name + role)]
    if made:
        lines.append(_Line(left, y + form.line, "made", made))
    groups = {"better": link.bought, "worse": link.cost, "open": link.open}
    if form.names:
        columns = _columns(form, left)
        width = columns["worse"] - columns["better"] - 10
        for tone, changes in groups.items():
            lines += _texts(changes, tone, columns[tone], y, form, width)
        lines += _facts(link.facts, columns["better"], y, form)
        return lines
    y += len(lines) * form.line
    facts = _facts(link.facts, left, y, form)
    y += len(facts) * form.line
    lines += facts
    for tone, changes in groups.items():
        lines += _texts(changes, tone, left, y, form, room)
        y += form.line * len(changes)
    return lines


def _facts(facts: Sequence[Change], x: float, y: float, form: Form) -> list[_Line]:
    """The figures of a step without a parent, as many on a line as it holds."""
    letters = form.letters(form.width - x)
    rows: list[str] = []
    for fact in facts:
        text = shorten(f"{fact.label} {fact.values}", letters)
        if rows and len(rows[-1]) + len(text) + 3 <= letters:
            rows[-1] += f" · {text}"
        else:
            rows.append(text)
    return [_Line(x, y + form.line * at, "", row) for at, row in enumerate(rows)]


def _texts(
    changes: Sequence[Change], tone: str, x: float, y: float, form: Form, width: float
) -> list[_Line]:
    mark = f"{MARKS[tone]} " if tone else ""
    letters = form.letters(width)
    lines = []
    for number, change in enumerate(changes):
        values = shorten(change.values, letters)
        label = shorten(change.label, max(4, letters - len(mark + values) - 1))
        lines.append(_Line(x, y + form.line * number, tone, f"{mark}{label} ", values))
    return lines


def _draw_rails(
    root: ET.Element, links: Sequence[Link], centres: Sequence[tuple[float, float]]
) -> None:
    """A dot for each step, joined to that of the step that it started from."""
    at = {link.name: centre for link, centre in zip(links, centres, strict=True)}
    for link in links:
        x, y = at[link.name]
        if link.parent in at and at[link.parent][1] < y:
            from_x, from_y = at[link.parent]
            bend = min(30.0, y - from_y)
            middle = from_y + bend / 2
            curve = f"C{from_x:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {from_y + bend:.1f}"
            ET.SubElement(root, "path", {"d": f"M{from_x:.1f} {from_y:.1f}{curve}V{y:.1f}"})
    for link, (x, y) in zip(links, centres, strict=True):
        tone = "chosen" if link.role == "candidate" else "step"
        ET.SubElement(root, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "5", "class": tone})


def _draw_text(root: ET.Element, line: _Line) -> None:
    place = {"x": f"{line.x:.1f}", "y": f"{line.y:.1f}"}
    text = ET.SubElement(root, "text", place | ({"class": line.tone} if line.tone else {}))
    text.text = plain(line.before)
    if line.value:
        ET.SubElement(text, "tspan").text = plain(line.value)
