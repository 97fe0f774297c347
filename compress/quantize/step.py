"""The quantize step: its place in recipes and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...models import family_of
from ...steps.state import State
from ...steps.step import FOUNDATION, Cost, PlanContext, Step
from .options import QuantizeOptions

if TYPE_CHECKING:
    from ...steps.context import StepContext, StepResult

__all__ = ["QuantizeStep"]

FLOAT32 = 4
"""Bytes."""


class QuantizeStep(Step[QuantizeOptions]):
    """Round the weights to few bits and pack them."""

    kind = "quantize"
    Options = QuantizeOptions

    def code(self, options: QuantizeOptions) -> tuple[str, ...]:
        """The quantization code."""
        return (*FOUNDATION, "compress/calibration", "compress/quantize")

    def after(self, options: QuantizeOptions, source: State, plan: PlanContext) -> State:
        """The packed model."""
        from .assignment import extra_bytes  # late: torch takes seconds

        return replace(
            source,
            precision=f"int{options.bits}",
            group_size=options.group_size,
            sym=options.sym,
            g_idx=options.permuted,
            extra_bytes=extra_bytes(family_of(source.config), source.config, options),
        )

    def cost(
        self, options: QuantizeOptions, source: State, result: State, plan: PlanContext
    ) -> Cost:
        """One calibration pass and one solve per layer, and the journal of finished layers."""
        from ..calibration.operations import layerwise_operations

        return Cost(
            _memory(source, plan),
            layerwise_operations(source, plan.tokens),
            _journal_bytes(options, source, plan),
        )

    def run(
        self, options: QuantizeOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the packed checkpoint."""
        from .runner import quantize

        return quantize(options, source, out, context)


def _memory(source: State, plan: PlanContext) -> float:
    """Bytes of one layer twice, hidden states, the Hessian and its factor, and weight copies."""
    family = family_of(source.config)
    shape, linears = family.shape(source.config), family.linear_shapes(source.config)
    count = {name: shape.experts.count if shape.experts and "*" in name else 1 for name in linears}
    layer = sum(count[name] * n * k for name, (n, k) in linears.items())
    widest = max(k for _, k in linears.values())
    largest = max(n * k for n, k in linears.values())
    inputs = (
        shape.hidden_size + linears.get(family.o, (0, 0))[1] + linears.get(family.down, (0, 0))[1]
    )
    hidden = min(plan.activation_budget, FLOAT32 * plan.tokens * inputs)
    return 2.0 * FLOAT32 * layer + hidden + 2 * FLOAT32 * widest**2 + 10 * FLOAT32 * largest


def _journal_bytes(options: QuantizeOptions, source: State, plan: PlanContext) -> int:
    """Bytes of finished layers and of two sets of hidden states, kept until the step is done."""
    from .assignment import choose

    family = family_of(source.config)
    layers = choose(family, source.config, options).quantized_bytes
    return layers + 2 * FLOAT32 * plan.tokens * family.shape(source.config).hidden_size
