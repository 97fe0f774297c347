"""The places that a verb reads and writes: found by markers of its options, checked, locked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ..benchmarks.tasks.kinds import KINDS as TASKS
from ..checkpoints.locks import locked, writer_of
from ..checkpoints.outputs import Input, Output, beside, check_own, check_places
from ..console import IS_MAIN
from ..data.kinds import KINDS as SOURCES
from ..errors import EdgewrightError
from ..steps.cache_directory import CACHE, cache_directory
from ..steps.places import Named, Reads, Writes, named_places, texts_in
from .verb_options import RecipeSettings

__all__ = ["Places", "input_named", "marker_of", "places_of"]

UNLOCKED = ("cache", "shared")
"""Kinds of outputs that commands share: each locks what it adds, while it adds it."""
GENERATED = ("builtin", "gym", "reasoning")
"""Kinds of sources and tasks that are no files."""


@dataclass(frozen=True)
class Places:
    """What one call of a verb reads and writes."""

    outputs: tuple[Output, ...]
    inputs: tuple[Input, ...]

    @contextmanager
    def held(self, command: str) -> Iterator[None]:
        """Check all places, and hold the lock of every output while the verb works.

        Of several processes of one command, the main one holds the locks.

        Args:
            command: what was typed, for the messages of other commands.

        Raises:
            UsageError: a place is impossible, is somebody else's, or overlaps with an input.
            EdgewrightError: another command writes there.
        """
        check_places(self.outputs, self.inputs)
        self._refuse_unfinished()
        with ExitStack() as stack:
            for output in sorted(self.outputs, key=lambda one: one.written):
                missing = output.kind == "report" and not output.path.is_dir()
                if IS_MAIN and output.kind not in UNLOCKED and not missing:
                    lock = locked(output.path, inside=output.filled, command=command)
                    stack.enter_context(lock)
            check_own(self.outputs)
            yield

    def _refuse_unfinished(self) -> None:
        """Refuse to read what another command is about to replace."""
        for source in self.inputs:
            if owner := writer_of(source.path):
                raise EdgewrightError(
                    f"{source.name} {source.path}: another edgewright run is writing it: {owner}",
                    "wait until it has ended",
                )


def marker_of(hint: Any) -> Reads | Writes | None:
    """The marker in an annotation, if there is one."""
    return next((one for one in get_args(hint)[1:] if isinstance(one, Reads | Writes)), None)


def places_of(
    values: Mapping[str, Any], hints: Mapping[str, Any], names: Mapping[tuple[str, ...], str]
) -> Places:
    """The places of one call.

    Args:
        values: the positional arguments and the models of options, by parameter name.
        hints: annotations of the positional arguments, by name.
        names: of options in messages, by the path of their fields.
    """
    named = [
        Named((name,), text, marker)
        for name, hint in hints.items()
        if (marker := marker_of(hint))
        for text in texts_in(values[name])
    ]
    models = [value for value in values.values() if isinstance(value, BaseModel)]
    named += [one for model in models for one in named_places(model)]
    if not any(isinstance(one.marker, Writes) for one in named):
        return Places((), ())
    named += [more for one in named for more in _in_recipe(one, models)]
    shown = {**names, **{(name,): name.upper() for name in hints}}
    outputs: list[Output] = []
    inputs: list[Input] = []
    for one in named:
        name = shown.get(one.path) or ".".join(one.path)
        if isinstance(one.marker, Writes):
            outputs += _outputs(name, Path(one.text), one.marker)
        else:
            inputs += [Input(name, path) for path in [input_named(one.text)] if path]
    outputs.append(Output(CACHE, cache_directory(), "shared"))
    return Places(tuple(outputs), tuple(inputs))


def _outputs(name: str, path: Path, marker: Writes) -> Iterator[Output]:
    yield Output(name, path, marker.kind, marker.marks)
    if path.name:
        for ending, marks in marker.beside:
            yield Output(name, beside(path, ending), "file", marks)


def _in_recipe(named: Named, models: Iterable[BaseModel]) -> Iterator[Named]:
    """What a recipe names: models, data and places, without its own steps."""
    if not (isinstance(named.marker, Reads) and named.marker.recipe):
        return
    from ..pipeline.recipe import BASELINE
    from ..pipeline.recipe_file import load_recipe
    from ..steps.options import TRACES

    changed = [model for model in models if isinstance(model, RecipeSettings)]
    settings = changed[0].settings if changed else ()
    recipe = load_recipe(Path(named.text), settings)
    own = {BASELINE, TRACES, *recipe.step_names}
    yield from (one for one in named_places(recipe) if one.text not in own)


def input_named(text: str) -> Path | None:
    """The file or directory that the text of an input names; None for a hub id or a built-in name.

    The path may stand between other words: `jsonl:FILE:FIELD`, `qa:parquet:FILE[:100]`, `RUN:STEP`.
    """
    if _exists(Path(text)):
        return Path(text)
    words = text.split(":")
    while words and words[0] in (*SOURCES, *TASKS):
        if words.pop(0) in GENERATED:
            return None
    for count in range(len(words), 0, -1):
        joined = ":".join(words[:count])
        for name in (joined, joined.partition("[")[0]):
            if name and _exists(Path(name)):
                return Path(name)
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, a null byte: no file
        return False
