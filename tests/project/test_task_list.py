"""The tasks of docs/tasks.md: a newcomer finds their commands with `--help` and the README."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
from command_parsing import verbs
from doc_commands import PAGES, Command, commands_of

from edgewright.commands.catalog import VERBS
from edgewright.commands.help_pages import by_panel
from edgewright.docs.import_graph import ROOT
from edgewright.steps.panels import COMMON, TERMINAL

PAGE = ROOT / "docs" / "tasks.md"
TEXT = PAGE.read_text()
COMMANDS = list(commands_of(PAGE))
ASKED_FOR = (
    "Compress my own Qwen on my laptop",
    "Is this commit worse?",
    "Put it on the board",
    "Which of my models fits a Nano?",
    "Continue yesterday's run",
)


def verb_of(command: Command) -> str:
    """The verb of a command, with the one below it."""
    first, *rest = command.words[1:]
    return f"{first} {rest[0]}" if rest and f"{first} {rest[0]}" in verbs() else first


@cache
def shown_options(verb: str) -> frozenset[str]:
    """Options among the common ones of a help page, in its examples, or in the README."""
    command: Any = verbs()[verb]
    panels = by_panel(command.params)
    first = {flag for one in (*panels.get(COMMON, ()), *panels[TERMINAL]) for flag in one.opts}
    readme = [one.line for one in commands_of(PAGES[0])]
    texts = [line for line in readme if line.startswith(f"edgewright {verb} ")]
    return frozenset({*first, *re.findall(r"(?<!\S)--[a-z-]+", " ".join([*texts, command.help]))})


def test_there_are_25_tasks_each_with_commands() -> None:
    tasks = re.split(r"^### ", TEXT, flags=re.M)[1:]
    assert [int(task.partition(".")[0]) for task in tasks] == list(range(1, 26))
    assert all("```bash" in task for task in tasks)
    titles = [task.partition(". ")[2].splitlines()[0] for task in tasks]
    assert set(ASKED_FOR) <= set(titles)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line[:60])
def test_a_newcomer_finds_the_command(command: Command) -> None:
    assert command.words[1] in VERBS  # listed by `edgewright --help`
    verb = verb_of(command)
    used = {word for word in command.words if word.startswith("--")}
    assert used <= shown_options(verb)


def test_every_verb_of_the_list_has_a_task_or_is_for_special_studies() -> None:
    used = {command.words[1] for command in COMMANDS}
    assert set(VERBS) - used == {"report", "kv-study", "recipe"}
