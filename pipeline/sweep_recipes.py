"""The recipes of a sweep: one recipe, with the values of each trial in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.config import model_path, resolve
from ..errors import UsageError
from .defaults import with_default_data
from .named_inputs import check_inputs
from .recipe import Recipe
from .recipe_file import load_recipe

__all__ = ["trial_recipe", "varied_recipes", "with_data"]


def trial_recipe(path: Path, settings: Sequence[str], chosen: Mapping[str, Any]) -> Recipe:
    """The recipe of one trial.

    Args:
        path: the recipe of the sweep.
        settings: `KEY=VALUE` overrides for every trial.
        chosen: the values of this one, by key.

    Raises:
        UsageError: the recipe takes no such value.
    """
    return load_recipe(path, [*settings, *(f"{k}={json.dumps(v)}" for k, v in chosen.items())])


def varied_recipes(
    path: Path, settings: Sequence[str], vary: Mapping[str, Sequence[Any]]
) -> Iterator[Recipe]:
    """The recipe with each value of each key, beside the first values of the other keys.

    Args:
        path: the recipe of the sweep.
        settings: `KEY=VALUE` overrides for every trial.
        vary: the values of each key.

    Raises:
        UsageError: a value cannot be used, or two values of a key make the same recipe.
    """
    firsts = {key: values[0] for key, values in vary.items()}
    for key, values in vary.items():
        made: list[Recipe] = []
        for value in values:
            recipe = trial_recipe(path, settings, firsts | {key: value})
            check_inputs(recipe)
            if recipe in made:
                raise UsageError(
                    f"--vary {key}: {values[made.index(recipe)]} and {value} make the same recipe",
                    "list each value once, and each option under one key",
                )
            made.append(recipe)
        yield from made


def with_data(recipe: Recipe) -> Recipe:
    """The recipe with the data that it has by default."""
    return with_default_data(recipe, resolve(model_path(recipe.model), config_only=True))
