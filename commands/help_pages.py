"""Help pages: what a verb does, its options by topic, its examples.

Options that most people need come first, those for experts last. The declaration of an option says
which it is: `Cli.panel`, or the `panel` of its model.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..steps.panels import COMMON, EXPERT, TERMINAL

__all__ = ["WIDEST", "by_panel", "options_page", "verbs_panels"]

WIDEST = 140
"""Columns of a help page on a terminal that is wider than that."""
ARGUMENTS = "Arguments"
FIRST = (ARGUMENTS, COMMON)
LAST = (EXPERT, TERMINAL)
NAMES = 27
"""Most columns for the names of options."""
EXAMPLES = "Example"
"""Begins the paragraph above the examples of a docstring."""
UNWRAPPED = "\b\n"
"""Before a paragraph that is printed as it is."""


def options_page(command: Any, ctx: Any, verbs: Sequence[RenderableType] = ()) -> str:
    """The help page of a command.

    Args:
        command: of Typer.
        ctx: its context.
        verbs: panels of verbs, which come before the options.
    """
    text, examples = _parts(command.help or "")
    shown: list[RenderableType] = [Text(command.get_usage(ctx)), Text()]
    shown += [_paragraph(one) for one in text]
    shown += verbs
    panels = by_panel(command.get_params(ctx))
    shown += [_panel(title, [_row(one, ctx) for one in some]) for title, some in panels.items()]
    return _printed(shown) + "".join(f"\n{one}" for one in _copied(examples))


def verbs_panels(listed: Mapping[str, Mapping[str, str]]) -> list[RenderableType]:
    """A panel of each topic with its verbs and what they do."""
    widest = max(len(name) for verbs in listed.values() for name in verbs)
    return [
        _panel(topic, [(name, Text(text)) for name, text in verbs.items()], widest)
        for topic, verbs in listed.items()
    ]


def by_panel(params: Iterable[Any]) -> dict[str, list[Any]]:
    """Arguments and options of a command by panel, in the order of a help page."""
    found: dict[str, list[Any]] = {}
    for one in params:
        panel = ARGUMENTS if one.param_type_name == "argument" else one.rich_help_panel
        found.setdefault(panel or TERMINAL, []).append(one)
    middle = [title for title in found if title not in (*FIRST, *LAST)]
    return {title: found[title] for title in (*FIRST, *middle, *LAST) if title in found}


def _parts(text: str) -> tuple[list[str], list[str]]:
    """The paragraphs of a docstring before the examples, and the examples with their heading."""
    paragraphs = text.split("\n\n")
    start = next(
        (index for index, one in enumerate(paragraphs) if one.startswith(EXAMPLES)),
        len(paragraphs),
    )
    return paragraphs[:start], paragraphs[start:]


def _copied(paragraphs: Sequence[str]) -> list[str]:
    """Examples, each on one line however long it is, so that it can be copied."""
    return [f"{one.removeprefix(UNWRAPPED)}\n" for one in paragraphs]


def _paragraph(text: str) -> RenderableType:
    return Padding(Text(" ".join(text.split())), (0, 1, 1, 1))


def _row(param: Any, ctx: Any) -> tuple[str, Text]:
    """The names of an option, and what it does, with its choices and its default."""
    names, text = param.get_help_record(ctx)
    names, _, choices = names.partition(" [")
    shown = Text(text)
    shown.highlight_regex(r"\[default: [^\]]*\]$", "dim")
    shown.highlight_regex(r"\[required\]$", "red")
    if choices:
        shown = Text("\n").join([Text(choices.rstrip("]").replace("|", " | "), "yellow"), shown])
    return names, shown


def _panel(title: str, rows: Iterable[tuple[str, Text]], names: int = NAMES) -> RenderableType:
    """Rows of names and texts under a title."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(width=min(names, _width() // 3), style="bold cyan")
    table.add_column(ratio=1)
    for row in rows:
        table.add_row(*row)
    return Panel(table, title=title, title_align="left", box=box.ROUNDED, border_style="dim")


def _printed(items: Iterable[RenderableType]) -> str:
    """The items as text, in colours where standard output is a terminal."""
    console = Console(width=_width(), emoji=False)
    with console.capture() as captured:
        for item in items:
            console.print(item, highlight=False)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _width() -> int:
    """Columns of a page."""
    return min(shutil.get_terminal_size().columns, WIDEST)
