"""No option is infinite or NaN, unless its description says that it may be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from edgewright.commands import compress, deliver, measure, project
from edgewright.pipeline import recipe
from edgewright.targets import profile

IMPORTED = (compress, deliver, measure, profile, project, recipe)
"""With them, the options of all verbs and steps are imported, and the profiles of devices."""
ENDLESS = {"request_rate"}
"""Options whose description takes `inf`."""


def _models(base: type[BaseModel] = BaseModel) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _holds(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_holds(one, wanted) for one in get_args(annotation))


FIELDS = {
    f"{model.__module__}.{model.__name__}.{field.alias or name}": (model, field.alias or name)
    for model in _models()
    for name, field in model.model_fields.items()
    if model.__module__.startswith("edgewright.")
    and model.model_config.get("extra") == "forbid"
    and _holds(field.annotation, float)
}


def test_there_are_such_options() -> None:
    assert IMPORTED
    names = {name for _, name in FIELDS.values()}
    assert {"activation_budget", "lr", "heads", "minutes", "confidence", "bandwidth_gb_s"} <= names


@pytest.mark.parametrize("place", sorted(FIELDS))
def test_an_option_is_a_finite_number(place: str) -> None:
    model, name = FIELDS[place]
    for number in map(float, ("inf", "-inf", "nan")):
        if name in ENDLESS and number > 0:
            continue
        for value in (number, [number], {"x": number}):
            with pytest.raises(ValidationError) as caught:
                model.model_validate({name: value})
            assert any(error["loc"][0] == name for error in caught.value.errors()), value


@pytest.mark.parametrize("value", [".inf", ".nan", "1e999", "1e308"])
def test_a_recipe_without_a_finite_budget_is_refused(cli: Any, tmp_path: Path, value: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(f"activation_budget: {value}\nsteps: [{{kind: prune, heads: 0.5}}]\n")
    code, _, error = cli("run", file, "--out", tmp_path / "out")
    assert code == 2 and f"{file}:1: `activation_budget`" in error, error
    assert not (tmp_path / "out").exists()
