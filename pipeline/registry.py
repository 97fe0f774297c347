"""The list of all steps. A new step is added here and nowhere else in the pipeline."""

from __future__ import annotations

from typing import Any

from ..compress.distill.step import DistillStep
from ..compress.iterate.step import IterateStep
from ..compress.prune.step import PruneStep
from ..compress.quantize.step import QuantizeStep
from ..export.step import ExportStep
from ..steps.step import Step

__all__ = ["STEPS"]

_STEPS: tuple[Step[Any], ...] = (
    PruneStep(),
    DistillStep(),
    IterateStep(),
    QuantizeStep(),
    ExportStep(),
)
STEPS: dict[str, Step[Any]] = {step.kind: step for step in _STEPS}
"""Every step by its kind."""
