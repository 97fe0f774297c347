"""Commands of Typer for the verbs: each is imported when it is asked for, and has our help page."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from .catalog import TOPICS, VERBS, load
from .help_pages import WIDEST, options_page, verbs_panels

__all__ = ["HELP", "AllVerbs"]

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": WIDEST}
"""Settings of every command."""
NO_MARKUP: dict[str, Any] = {"rich_markup_mode": None, "add_completion": False}


class OneVerb(TyperCommand):
    """A verb with its options by topic."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(options_page(self, ctx))


class VerbWithMore(TyperGroup):
    """A verb with verbs below it, such as `targets`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        inside = {name: _summary(command) for name, command in self.commands.items()}
        formatter.write(options_page(self, ctx, verbs_panels({"Verbs": inside})))


class AllVerbs(TyperGroup):
    """The command `edgewright`. What lists its verbs imports none of them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command that has only a name and a summary, for lists and completion."""
        entry = VERBS.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, to be run."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if found and name else found, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        listed = {
            topic: {entry.name: entry.summary for entry in entries}
            for topic, entries in TOPICS.items()
        }
        formatter.write(options_page(self, ctx, verbs_panels(listed)))


class _Commands(MutableMapping[str, Any]):
    """The commands of all verbs by name; one is made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _command(name)
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


def _command(name: str) -> Any:
    """The command of a verb, or of a verb with verbs below it.

    Raises:
        KeyError: there is no such verb.
    """
    entry = VERBS[name]
    verb = load(entry.place)
    app = typer.Typer(name=name, cls=VerbWithMore, invoke_without_command=True, **NO_MARKUP)
    if entry.inside:
        app.callback()(verb.command)
    for one in map(load, entry.inside or (entry.place,)):
        app.command(one.name, cls=OneVerb)(one.command)
    command = typer.main.get_group(app)
    return command if entry.inside else command.commands[name]


def _summary(command: Any) -> str:
    return (command.help or "").partition("\n")[0]
