"""Writes what is generated: pages and pictures of docs/ that need no model, and types of the API.

Run `python -m edgewright.docs.write_all` after a change of options, metrics, recipes, functions,
families or packages. A test fails while one of them is out of date.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from . import (
    draw_architecture,
    draw_chain,
    write_families,
    write_metrics,
    write_python,
    write_recipe,
    write_reference,
    write_types,
)

__all__ = ["PAGES"]

PAGES: dict[Path, Callable[[], str]] = {
    write_reference.FILE: write_reference.reference,
    write_recipe.FILE: write_recipe.page,
    write_metrics.FILE: write_metrics.page,
    write_python.FILE: write_python.page,
    write_types.FILE: write_types.types,
    write_families.FILE: write_families.page,
    draw_architecture.PICTURE: draw_architecture.picture,
    draw_architecture.PAGE: draw_architecture.page,
    draw_chain.PICTURE: draw_chain.picture,
}
"""By file: the function that gives the text that it should have now."""


def outdated() -> Iterator[Path]:
    """The generated files that differ from what they should be."""
    for file, text in PAGES.items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text():
            yield file


if __name__ == "__main__":
    for changed in outdated():
        changed.write_text(PAGES[changed](), encoding="utf-8")
        print(f"wrote {changed.name}", file=sys.stderr)
