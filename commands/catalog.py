"""The verbs by topic, as `edgewright --help` lists them.

A verb is imported when it is asked for: `--help` and `gate` then do not load the options of
training. What the list says of a verb is the first line of its docstring.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .verb import Verb

__all__ = ["TOPICS", "VERBS", "Entry", "load"]


@dataclass(frozen=True)
class Entry:
    """Where a verb is defined.

    Attributes:
        place: its module in `commands`, and the name of its function there.
        inside: the verbs below it, such as `show` of `targets show`.
    """

    place: str
    inside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What is typed."""
        return self.place.rpartition(".")[2].replace("_", "-")

    @property
    def summary(self) -> str:
        """The first line of the docstring, read from the source without importing it."""
        module, _, function = self.place.partition(".")
        return _summaries(module)[function]


@cache
def _summaries(module: str) -> dict[str, str]:
    """The first docstring line of every function of a module of verbs."""
    source = Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    return {
        node.name: (ast.get_docstring(node) or "").partition("\n")[0]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


def load(place: str) -> Verb:
    """Import a verb.

    Args:
        place: module and function, as in `Entry`.
    """
    module, _, function = place.partition(".")
    return getattr(import_module(f".{module}", __package__), function)


TOPICS: dict[str, tuple[Entry, ...]] = {
    "Plan and run": (
        Entry("project.demo"),
        Entry("project.init"),
        Entry("project.plan"),
        Entry("project.run"),
        Entry("measure.sweep"),
    ),
    "Make it smaller": (
        Entry("compress.prune"),
        Entry("compress.distill"),
        Entry("compress.quantize"),
        Entry("compress.iterate"),
        Entry("compress.traces"),
    ),
    "Bring it to the device": (
        Entry("project.targets", inside=("project.targets_show", "deliver.check")),
        Entry("deliver.export"),
        Entry("deliver.deploy"),
        Entry("deliver.serve"),
    ),
    "Measure and decide": (
        Entry("measure.bench"),
        Entry("measure.gate"),
        Entry("measure.compare"),
        Entry("measure.report"),
        Entry("measure.kv_study"),
    ),
    "Look after it": (
        Entry("project.doctor"),
        Entry("project.recipe", inside=("project.recipe_schema",)),
    ),
}
"""The topics of the list, in its order."""
VERBS = {entry.name: entry for entries in TOPICS.values() for entry in entries}
"""The verbs by what is typed."""
