"""The list of all steps. A new step is added here and nowhere else in the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compress.distill.step import DistillStep
from ..compress.iterate.step import IterateStep
from ..compress.prune.step import PruneStep
from ..compress.quantize.step import QuantizeStep
from ..export.options import ExportOptions
from ..export.step import Exporter, ExportStep
from ..steps.step import Step

if TYPE_CHECKING:
    from ..steps.context import StepContext, StepResult

__all__ = ["STEPS"]


def _edge_llm(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    from ..targets.edge_llm_package import hand_over  # late: reads the profiles of devices

    del context
    return hand_over(source, out, options.precision)


_STEPS: tuple[Step[Any], ...] = (
    PruneStep(),
    DistillStep(),
    IterateStep(),
    QuantizeStep(),
    ExportStep({"edge-llm": Exporter(_edge_llm, code=("targets",))}),
)
STEPS: dict[str, Step[Any]] = {step.kind: step for step in _STEPS}
"""Every step by its kind."""
