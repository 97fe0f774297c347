"""The export step: its place in recipes and plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..models import require_dense
from ..steps.state import State
from ..steps.step import FOUNDATION, Cost, PlanContext, Step
from .options import ExportOptions

if TYPE_CHECKING:
    from ..steps.context import StepContext, StepResult

__all__ = ["ExportStep", "Exporter"]

MEASURABLE = ("onnx", "ort", "tensorrt")
"""Formats that benchmarks can run on this machine."""
PARITY_POSITIONS = 4 * 1024
"""Tokens that both models run through for the parity check, about."""


@dataclass(frozen=True)
class Exporter:
    """The writer of a format that another package adds."""

    write: Callable[[ExportOptions, Path, Path, StepContext], StepResult]
    code: tuple[str, ...]
    """Packages whose code it runs, beside `export`."""


class ExportStep(Step[ExportOptions]):
    """Write an artifact that a runtime reads, and check that it computes the same."""

    kind = "export"
    Options = ExportOptions

    def __init__(self, exporters: Mapping[str, Exporter]) -> None:
        """Add the formats that need more than `export` may import: the rules of a device.

        Args:
            exporters: writer by format.
        """
        self.exporters = exporters

    def code(self, options: ExportOptions) -> tuple[str, ...]:
        """The exporters, and what the format's own writer adds."""
        exporter = self.exporters.get(options.format)
        return (*FOUNDATION, "export", *(exporter.code if exporter else ()))

    def check_in_recipe(self, options: ExportOptions) -> None:
        """Refuse formats that cannot be measured on this machine."""
        if options.format not in MEASURABLE:
            raise ValueError(
                f"format: {options.format} cannot be measured here; "
                f"use the verb, `edgewright export --format {options.format}`"
            )

    def after(self, options: ExportOptions, source: State, plan: PlanContext) -> State:
        """The same weights in another format."""
        require_dense(source.config, "exported", plan.name)
        precision = options.precision.removesuffix("-a8")
        return replace(source, precision=precision, format=options.format)

    def cost(self, options: ExportOptions, source: State, result: State, plan: PlanContext) -> Cost:
        """The model in float32, and the parity check."""
        operations = 2.0 * PARITY_POSITIONS * source.active_parameters
        return Cost(4.0 * source.parameters, operations)

    def run(
        self, options: ExportOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the artifact."""
        if exporter := self.exporters.get(options.format):
            return exporter.write(options, source, out, context)
        from .runner import export  # late: torch and transformers take seconds

        return export(options, source, out, context)
