"""The families of models that edgewright knows, one small file for each.

To add a family, add a file to this folder that defines `FAMILY`. No other file has to name it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..family import Family

__all__ = ["FAMILIES", "discover"]


def discover() -> dict[str, Family]:
    """The families of all files in this folder, by the `model_type` of their config.json."""
    found: list[Family] = [
        import_module(f".{module.name}", __name__).FAMILY for module in iter_modules(__path__)
    ]
    return {family.model_type: family for family in found}


FAMILIES = discover()
"""By the `model_type` of their config.json."""
