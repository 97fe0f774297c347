"""Help pages: examples that survive copying, full width, short flags; tables that are narrow."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import Any

import pytest
from command_parsing import parse, verbs
from rich.console import Console

from edgewright.commands.catalog import TOPICS, load
from edgewright.commands.catalog import VERBS as CATALOG
from edgewright.commands.help_pages import ARGUMENTS
from edgewright.commands.table_parts import ColumnTable
from edgewright.steps.panels import COMMON, EXPERT, TERMINAL

VERBS = verbs()
PLACES = [place for entry in CATALOG.values() for place in (entry.place, *entry.inside)]


def page(cli: Any, verb: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """The help of a verb on a terminal of this width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = cli(*verb.split(), "--help")
    assert code == 0
    return out


def examples(text: str) -> list[str]:
    """The commands in a help page."""
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith(("edgewright ", "torchrun "))]


@pytest.mark.parametrize("verb", VERBS)
def test_examples_are_whole_lines_at_every_width(
    cli: Any, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [examples(page(cli, verb, columns, monkeypatch)) for columns in (40, 80, 140)]
    assert found[0] == found[1] == found[2] and found[0]
    inside = "\n".join(" ".join(words.split()) for words in (VERBS[verb].help or "").split("\n\n"))
    for example in found[0]:
        assert example in inside  # nothing is cut off


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_parses(cli: Any, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for example in examples(page(cli, verb, 80, monkeypatch)):
        assert parse(example) is not None


def test_help_is_as_wide_as_the_terminal(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (
        max(map(len, page(cli, "quantize", columns, monkeypatch).split("╭")[2].splitlines()))
        for columns in (80, 130)
    )
    assert narrow <= 80 < 100 < wide <= 130


@pytest.mark.parametrize("verb", ["", "plan", "targets", "targets show", "recipe"])
def test_h_is_help(cli: Any, verb: str) -> None:
    assert cli(*verb.split(), "-h") == cli(*verb.split(), "--help")


def test_o_is_out() -> None:
    outs = [
        option for command in VERBS.values() for option in command.params if "--out" in option.opts
    ]
    assert len(outs) > 8 and all("-o" in option.opts for option in outs)


def test_completion_is_offered(cli: Any) -> None:
    assert "--install-completion" in cli("--help")[1]


def panels(text: str) -> list[str]:
    """The titles of the panels of a help page, from top to bottom."""
    return re.findall(r"^╭─ (.+?) ─*╮$", text, re.M)


def test_verbs_are_listed_by_topic_and_none_twice(cli: Any) -> None:
    text = cli("--help")[1]
    assert panels(text) == [*TOPICS, TERMINAL]
    named = [name for entries in TOPICS.values() for name in (entry.name for entry in entries)]
    assert re.findall(r"^│ ([a-z][a-z-]+) ", text, re.M) == named
    assert set(named) == {name.split()[0] for name in VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_common_options_come_first_and_those_for_experts_last(cli: Any, verb: str) -> None:
    titles = panels(cli(*verb.split(), "--help")[1])
    order = [title for title in (ARGUMENTS, COMMON) if title in titles]
    assert titles[: len(order)] == order
    assert titles[-1] == TERMINAL and EXPERT not in titles[:-2]
    assert "More options" not in titles  # a model of options says where its fields stand


def test_every_option_of_a_verb_is_in_its_panel(cli: Any) -> None:
    text = cli("quantize", "--help")[1]
    common, *_, expert, _ = text.split("╭─ ")[2:]
    assert "--bits" in common and "--out" in common and "--damp" not in common
    assert "--damp" in expert and "--activation-budget" in expert
    assert "gptq | mixed | rtn | awq | int8 | smoothquant" in common


def test_fields_that_a_panel_names_exist() -> None:
    models = {option.field[0] for verb in map(load, PLACES) for option in verb.options}
    declared = {base for model in models for base in model.__mro__ if "panels" in vars(base)}
    assert len(declared) > 20
    for one in declared:
        fields = {name for m in models if issubclass(m, one) for name in m.model_fields}
        assert {*one.panels.common, *one.panels.expert} <= fields, one


COLUMNS = ("step", "exact match", "perplexity", "weights MB", "note")
ROWS = [
    ("export-int4", "0.957 ± 0.013", "1.0038", "13,780.00", "a text that may be broken " * 3),
    ("prune", "0.9 ± 0.01", "1", "2", ""),
]


def printed(width: int) -> str:
    """A table on a terminal of this width."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(ColumnTable(COLUMNS, ROWS, "title"))
    return console.export_text()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
def test_a_table_keeps_its_numbers_and_names_whole_at_every_width(width: int) -> None:
    text = printed(width)
    assert max(map(len, text.splitlines())) <= width
    for cell in ROWS[0][:-1]:
        assert cell in text
    assert text.count("title") == 1
    parts = text.count("┏")
    assert parts == text.count("export-int4")  # each part names its rows
    assert (parts == 1) == (width >= 100)


def test_the_module_is_called_edgewright_in_its_help() -> None:
    command = [sys.executable, "-m", "edgewright.cli", "plan", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: edgewright plan")
