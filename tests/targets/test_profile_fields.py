"""Every field of a target profile says in the code what it means, for those who write one."""

from __future__ import annotations

import ast
import inspect

import pytest
from pydantic import BaseModel

from edgewright.targets import platform_profile, profile
from edgewright.targets.platform_profile import StrictModel

MODELS = [
    found
    for module in (platform_profile, profile)
    for found in vars(module).values()
    if inspect.isclass(found)
    and issubclass(found, StrictModel)
    and found.__module__ == module.__name__
    and found is not StrictModel
]


def explained(model: type[BaseModel]) -> set[str]:
    """The fields of a model that are followed by a docstring."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_is_explained(model: type[BaseModel]) -> None:
    assert explained(model) == model.model_fields.keys()


def test_all_parts_of_a_profile_are_looked_at() -> None:
    names = {model.__name__ for model in MODELS}
    assert names >= {"Target", "Platform", "Memory", "PowerMode", "JetPack", "Int4", "EdgeLlm"}
