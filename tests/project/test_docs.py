"""The documentation names files, options and pictures that exist and are up to date."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from edgewright.cli import app
from edgewright.docs.import_graph import ROOT
from edgewright.docs.write_all import outdated

COLUMNS = 120
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "perf" / "RESULTS.md",
]
CHANGELOG = ROOT / "CHANGELOG.md"
"""It may name files of the past."""
PLACEHOLDERS = ("NAME", "FILE", "OUT", "RUN", "STEP", "DIR", "TASK", "...")
FROM_A_RUN = ("runs/",)


def name_of(path: Path) -> str:
    """The path of a page inside the repository."""
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a page without code blocks, tables and its front matter."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith(("    ", "|")):
            yield number, line


def test_generated_pages_and_pictures_are_up_to_date() -> None:
    assert not list(outdated()), "run `python -m edgewright.docs.write_all`"


def test_prose_is_at_most_120_columns_wide() -> None:
    long = [
        f"{name_of(path)}:{number}"
        for path in PAGES
        for number, line in prose(path.read_text())
        if len(line) > COLUMNS and " " in re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", "", line).strip()
    ]
    assert not long


def test_links_lead_to_files() -> None:
    broken = [
        f"{name_of(path)}: {link}"
        for path in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text())
        if "://" not in link and not (path.parent / link).exists()
    ]
    assert not broken


def mentioned_paths(text: str) -> Iterator[str]:
    """The paths of our files that a page names in backticks, also inside commands."""
    tops = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    for code in re.findall(r"`([^`\n]+)`", text):
        for word in code.split():
            word = word.strip("(),:")
            inside = re.fullmatch(r"[\w-]+(/[\w.-]+)*/?", word) and "/" in word
            placeholder = any(part in word for part in PLACEHOLDERS)
            ours = word.split("/")[0] in tops and not word.startswith(FROM_A_RUN)
            if inside and ours and not placeholder:
                yield word


@pytest.mark.parametrize("path", [path for path in PAGES if path != CHANGELOG], ids=name_of)
def test_files_that_a_page_names_exist(path: Path) -> None:
    assert not [word for word in mentioned_paths(path.read_text()) if not (ROOT / word).exists()]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `edgewright ...` command in the code of a page."""
    fenced = re.compile(r"^```(?:bash|console|sh)\n(.*?)^```", re.M | re.S)
    indented = fenced.sub(lambda block: textwrap.indent(block[1], "    "), text)
    joined = indented.replace("\\\n", " ")
    found = re.findall(r"^    (?:\$ )?edgewright (.+)$|`edgewright ([^`]+)`", joined, re.M)
    for block, inline in found:
        line = (block or inline).replace("...", "")
        try:
            yield shlex.split(line, comments=True)
        except ValueError:  # an apostrophe in a comment behind the command
            yield shlex.split(line.partition(" #")[0])


@cache
def command_line() -> Any:
    """The click command of `edgewright`."""
    return get_command(app)


def options_of(words: list[str]) -> set[str] | None:
    """The options that a verb takes, or None where the words begin with no verb."""
    command = command_line()
    for word in words:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    if command is command_line():
        return None
    return {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_options_that_a_page_names_exist(path: Path) -> None:
    wrong = []
    for words in commands(path.read_text()):
        known = options_of(words)
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if known is not None:
            wrong += [f"{' '.join(words)}: {name}" for name in sorted(given - known - {"--help"})]
    assert not wrong


def test_make_test_fast_names_files_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (patterns,) = re.findall(r"^FAST := (.+)$", makefile, re.M)
    assert not [pattern for pattern in patterns.split() if not list(ROOT.glob(pattern))]
