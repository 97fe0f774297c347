"""The families of models that edgewright knows, one small file for each.

A file joins by being here: it defines `FAMILY`, and nothing else has to name it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..family import Family

__all__ = ["FAMILIES"]


def _discovered() -> dict[str, Family]:
    found: list[Family] = [
        import_module(f".{module.name}", __name__).FAMILY for module in iter_modules(__path__)
    ]
    return {family.model_type: family for family in found}


FAMILIES = _discovered()
"""By the `model_type` of their config.json."""
