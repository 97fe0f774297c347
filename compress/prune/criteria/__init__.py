"""The importance criteria, one small file for each.

To add one, add a file that defines `CRITERION`. Nothing else names it: the choices of
`--criterion`, its help, the recipe schema, memory estimates and scoring come from this folder.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..criterion import Criterion

__all__ = ["CRITERIA"]


def _discovered() -> dict[str, Criterion]:
    found: list[Criterion] = [
        import_module(f".{module.name}", __name__).CRITERION for module in iter_modules(__path__)
    ]
    found.sort(key=lambda one: (not one.needs_gradient, not one.needs_calibration, one.name))
    return {criterion.name: criterion for criterion in found}


CRITERIA = _discovered()
"""By name, in the order of the help: first those that look at most, last the baselines."""
