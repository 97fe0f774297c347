"""The export step: its place in recipes and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..models import FORMATS, require_expressible
from ..models.packed_tables import packed_table_bytes
from ..steps.state import State
from ..steps.step import FOUNDATION, Cost, PlanContext, Step
from .options import ExportOptions

if TYPE_CHECKING:
    from ..steps.context import StepContext, StepResult

__all__ = ["ExportStep"]

PARITY_POSITIONS = 4 * 1024
"""Tokens that both models run through for the parity check, about."""


class ExportStep(Step[ExportOptions]):
    """Write an artifact that a runtime reads, and check that it computes the same."""

    kind = "export"
    Options = ExportOptions
    done = "exported"
    hub_relation = "quantized"

    def code(self, options: ExportOptions) -> tuple[str, ...]:
        """The exporters, and the package of the format's writer."""
        _, package, *_ = FORMATS[options.format].writer.split(".")
        return tuple(dict.fromkeys((*FOUNDATION, "export", package)))

    def check_in_recipe(self, options: ExportOptions) -> None:
        """Refuse formats that cannot be measured on this machine."""
        if not FORMATS[options.format].measurable:
            raise ValueError(
                f"format: {options.format} cannot be measured here; "
                f"use the verb, `edgewright export --format {options.format}`"
            )

    def after(self, options: ExportOptions, source: State, plan: PlanContext) -> State:
        """The same weights in another format."""
        require_expressible(source.architecture, options.format, plan.name)
        precision = options.precision.removesuffix("-a8")
        tables = source.table_bytes
        if options.packs_head and tables is None:
            tables = packed_table_bytes(source.architecture)
        return replace(source, precision=precision, format=options.format, table_bytes=tables)

    def cost(self, options: ExportOptions, source: State, result: State, plan: PlanContext) -> Cost:
        """The model in float32, and the parity check."""
        operations = 2.0 * PARITY_POSITIONS * source.active_parameters
        return Cost(4.0 * source.parameters, operations)

    def run(
        self, options: ExportOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the artifact."""
        from .runner import export  # late: torch and transformers take seconds

        return export(options, source, out, context)
