"""Draws docs/architecture.svg and the table in docs/architecture.md from the imports of the code.

Run it after a change of the packages: `python -m edgewright.docs.draw_architecture`.
A test fails while the picture or the table is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from .import_graph import ROOT, all_imports, part_of, sources

PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- imports: written by docs/draw_architecture.py -->"
END = "<!-- end of imports -->"
PURPOSE = {
    "cli": "entry point",
    "commands": "the verbs, their options and output",
    "demo": "the built-in model",
    "pipeline": "recipes, runs, plans, the ledger",
    "compress": "makes a model smaller",
    "export": "writes it for a runtime",
    "benchmarks": "measures, gates, reports",
    "targets": "knows devices, deploys, serves",
    "steps": "what every step of a recipe shares",
    "generation": "answers many prompts at a time",
    "checkpoints": "reads and writes models",
    "models": "architectures as data",
    "data": "text and tasks",
    "errors": "messages, exit codes",
    "console": "progress and logs",
    "redaction": "no secrets in messages",
    "documents": "JSON and YAML of others",
}
FLOORS = [
    {"cli": 500},
    {"commands": 500},
    {"pipeline": 500, "demo": 875},
    {"targets": 125, "benchmarks": 375, "export": 625, "compress": 875},
    {"steps": 500},
    {"generation": 670},
    {"data": 160, "checkpoints": 500, "models": 840},
    {"console": 110, "redaction": 320, "documents": 530, "errors": 740},
]
"""The rows of the picture from top to bottom: part -> the middle of its box, in pixels."""
WIDTH = 1000
BOX_WIDTH = 216
BOX_HEIGHT = 60
FLOOR_HEIGHT = 112
MARGIN = 20
STYLE = """
  svg { background: #ffffff; font-family: Helvetica, Arial, sans-serif; }
  rect { fill: #eef4fb; stroke: #2f5d8a; stroke-width: 1.2; }
  text { text-anchor: middle; fill: #16293c; }
  .name { font-size: 17px; font-weight: bold; }
  .purpose { font-size: 12px; }
  path { fill: none; stroke: #6b7f93; stroke-width: 1.4; marker-end: url(#head); }
  marker path { fill: #6b7f93; stroke: none; marker-end: none; }
"""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture, in pixels."""

    left: float
    top: float

    @property
    def middle(self) -> float:
        """The middle of the box, from the left."""
        return self.left + BOX_WIDTH / 2

    @property
    def bottom(self) -> float:
        """The lower edge, from the top."""
        return self.top + BOX_HEIGHT


def arrows() -> set[tuple[str, str]]:
    """Which part of the package imports which; who reads the version is left out."""
    pairs = {(part_of(found.source), part_of(found.target)) for found in all_imports()}
    return {(a, b) for a, b in pairs if a != b and "__init__" not in (a, b)}


def reachable(start: str, pairs: set[tuple[str, str]]) -> set[str]:
    """Every part that a part uses, directly or through others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        new = {b for a, b in pairs if a == here} - found
        found |= new
        waiting += new
    return found


def reduced(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """The arrows without those that follow from a longer way (transitive reduction)."""
    return sorted(
        (a, b)
        for a, b in pairs
        if not any(b in reachable(c, pairs) for x, c in pairs if x == a and c != b)
    )


def boxes() -> dict[str, Box]:
    """Where each part is drawn."""
    places = {}
    for row, floor in enumerate(FLOORS):
        for part, middle in floor.items():
            places[part] = Box(middle - BOX_WIDTH / 2, MARGIN + row * FLOOR_HEIGHT)
    return places


def _curve(start: Box, end: Box) -> str:
    """The path of an arrow: sideways within a floor, else from the bottom to the top."""
    if start.top == end.top:
        side = BOX_WIDTH if end.left > start.left else 0
        height = start.top + BOX_HEIGHT / 2
        return (
            f"M{start.left + side:.0f},{height:.0f} L{end.left + BOX_WIDTH - side:.0f},{height:.0f}"
        )
    lean = (end.middle - start.middle) / WIDTH * BOX_WIDTH
    leave = start.middle + lean * 0.8
    arrive = end.middle - lean * 0.8
    bend = (end.top - start.bottom) / 2
    return (
        f"M{leave:.0f},{start.bottom:.0f} C{leave:.0f},{start.bottom + bend:.0f} "
        f"{arrive:.0f},{end.top - bend:.0f} {arrive:.0f},{end.top:.0f}"
    )


def _lines() -> Iterator[str]:
    """The picture, line by line."""
    places = boxes()
    height = 2 * MARGIN + FLOOR_HEIGHT * (len(FLOORS) - 1) + BOX_HEIGHT
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="The packages of edgewright and which imports which">'
    )
    yield f"<style>{STYLE}</style>"
    yield (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>'
    )
    for start, end in reduced(arrows()):
        path = _curve(places[start], places[end])
        yield f'<path d="{path}"><title>{start} imports {end}</title></path>'
    for part, box in places.items():
        yield (
            f'<rect x="{box.left:.0f}" y="{box.top:.0f}" width="{BOX_WIDTH}" '
            f'height="{BOX_HEIGHT}" rx="7"/>'
        )
        yield f'<text class="name" x="{box.middle:.0f}" y="{box.top + 26:.0f}">{part}</text>'
        yield (
            f'<text class="purpose" x="{box.middle:.0f}" y="{box.top + 45:.0f}">'
            f"{escape(PURPOSE[part])}</text>"
        )
    yield "</svg>"


def picture() -> str:
    """The text of docs/architecture.svg as it should be now."""
    return "\n".join(_lines()) + "\n"


def _sub_packages(part: str) -> str:
    """The packages inside a part, such as `prune` and `quantize` in `compress`."""
    names = {
        module.split(".")[1]
        for module in sources()
        if part_of(module) == part and module.endswith(".__init__") and module.count(".") == 2
    }
    return ", ".join(f"`{name}`" for name in sorted(names))


def table() -> str:
    """The Markdown table of all arrows, those that the picture leaves out too."""
    pairs = arrows()
    rows = ["| part | packages inside | imports |", "|---|---|---|"]
    for part in (name for floor in FLOORS for name in floor):
        used = ", ".join(sorted(b for a, b in pairs if a == part)) or "nothing"
        rows.append(f"| `{part}` | {_sub_packages(part)} | {used} |")
    return "\n".join(rows)


def page() -> str:
    """The text of docs/architecture.md with the table as it should be now."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Write the picture and the table."""
    PICTURE.write_text(picture(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PICTURE.name} and the table in {PAGE.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
