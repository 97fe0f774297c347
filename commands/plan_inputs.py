"""Options of the verb `plan`, beside the device."""

from __future__ import annotations

from ..targets.options import DeviceLoad, DraftOptions, PlannedPrecision
from .verb_options import RecipeSettings

__all__ = ["PlanInputs"]


class PlanInputs(PlannedPrecision, DeviceLoad, DraftOptions, RecipeSettings):
    """How a device will use what is planned, its draft, and changes to the recipe."""
