"""The quantize step of recipes: what it produces, what it costs, and how it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...steps.state import State
from ...steps.step import FOUNDATION, Cost, PlanContext, Smaller, Step
from .assignment import assign_schemes, extra_bytes, table_bytes, with_kv_rules
from .options import QuantizeOptions

if TYPE_CHECKING:
    from ...steps.context import StepContext, StepResult

__all__ = ["QuantizeStep", "quantized_state"]

FLOAT32 = 4
"""Bytes of a float32."""
OVERHEAD = 140 << 20
"""Bytes for the tokenizer and the allocator's reserve; measured."""


class QuantizeStep(Step[QuantizeOptions]):
    """Round the weights to few bits and write a packed checkpoint."""

    kind = "quantize"
    Options = QuantizeOptions
    done = "quantized"
    hub_relation = "quantized"

    def code(self, options: QuantizeOptions) -> tuple[str, ...]:
        """The quantization code."""
        return (*FOUNDATION, "compress/calibration", "compress/quantize")

    def calibrates(self, options: QuantizeOptions) -> bool:
        """Plain rounding needs no text."""
        return options.needs_calibration

    def after(self, options: QuantizeOptions, source: State, plan: PlanContext) -> State:
        """The packed model."""
        return quantized_state(options, source)

    def cost(
        self, options: QuantizeOptions, source: State, result: State, plan: PlanContext
    ) -> Cost:
        """Calibration and GPTQ of every layer; on disk, the journal of finished layers."""
        from ..calibration.operations import layerwise_operations

        return Cost(
            _memory(source, plan),
            layerwise_operations(source, plan.tokens, options.hessian_tokens),
            _journal_bytes(options, source, plan),
        )

    def smaller(self, options: QuantizeOptions, plan: PlanContext) -> tuple[Smaller, ...]:
        """States on disk, shorter rows, fewer rows."""
        rows = plan.calibration
        changes = [Smaller("--activation-budget 0", activation_budget=0)]
        if rows.seq_len >= 8:
            changes.append(Smaller(f"--seq-len {rows.seq_len // 4}", seq_len=rows.seq_len // 4))
        return tuple(changes)

    def run(
        self, options: QuantizeOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the packed checkpoint."""
        from .runner import quantize

        return quantize(options, source, out, context)


def quantized_state(options: QuantizeOptions, source: State) -> State:
    """The packed model, from the config.json of the model alone.

    Raises:
        EdgewrightError: what `assignment.assign_schemes` raises.
    """
    model = source.architecture
    assignment = assign_schemes(model, with_kv_rules(model, options))
    return replace(
        source,
        precision=f"int{options.bits}",
        group_size=options.group_size,
        sym=options.sym,
        g_idx=options.permuted,
        extra_bytes=extra_bytes(assignment, model, options),
        table_bytes=table_bytes(assignment, model),
    )


def _memory(source: State, plan: PlanContext) -> float:
    """Bytes of memory: the larger of two moments, both with the hidden states.

    The first is the work on one layer: its weights twice, a Hessian and its factor, and copies of a
    weight. The second is the end: the embedding as stored and its copy, half of which the system
    takes back, as it is a mapped file.
    """
    from ...checkpoints.tensors import stored_dtype  # late: torch takes seconds

    model = source.architecture
    kinds = model.linear_counts()
    layer = model.weights_of_all_kinds
    widest = max(kind.in_features for kind in kinds)
    largest = max(kind.weights for kind in kinds)
    outputs = {name for layer in model.layers for name in layer.outputs}
    inputs = model.hidden_size + sum(kind.in_features for kind in kinds if kind.name in outputs)
    hidden = min(plan.activation_budget, FLOAT32 * plan.tokens * inputs)
    work = 2.0 * FLOAT32 * layer + 2 * FLOAT32 * widest**2 + 10 * FLOAT32 * largest
    table = stored_dtype(model.config).itemsize * model.vocab_size * model.hidden_size
    return OVERHEAD + hidden + max(work, 1.5 * table)


def _journal_bytes(options: QuantizeOptions, source: State, plan: PlanContext) -> int:
    """Bytes of finished layers and two sets of hidden states, on disk until the step ends."""
    model = source.architecture
    layers = assign_schemes(model, with_kv_rules(model, options)).quantized_bytes
    return layers + 2 * FLOAT32 * plan.tokens * model.hidden_size
