"""The prune step: its place in recipes and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...steps.state import State
from ...steps.step import FOUNDATION, Cost, PlanContext, Smaller, Step
from .criteria import CRITERIA
from .options import PruneOptions
from .sizes import merged_kv, sizes_after

if TYPE_CHECKING:
    from ...steps.context import StepContext, StepResult

__all__ = ["PruneStep", "pruned_state"]


def pruned_state(options: PruneOptions, source: State) -> State:
    """The model after a cut, from its config.json alone.

    Scores are not known, so a threshold is taken to remove nothing.

    Args:
        options: the cut, in shares.
        source: the model before the cut.

    Raises:
        UsageError: a count is out of range.
        Refused: a share has no legal count near it.
    """
    import torch  # late: takes seconds, and a recipe needs only the options

    from .selection import choose_layers

    model = source.architecture
    if options.merge_kv is not None:
        model = merged_kv(model, options.merge_kv)
    layers = choose_layers(torch.zeros(len(model.layers)), options.layers)
    sizes = sizes_after(options, model)
    return replace(source, architecture=model.resized(**sizes, layers=layers))


class PruneStep(Step[PruneOptions]):
    """Removes heads, FFN neurons, layers and experts, or makes the weights 2:4 sparse."""

    kind = "prune"
    Options = PruneOptions
    done = "structurally pruned (whole heads, neurons or layers removed)"

    def code(self, options: PruneOptions) -> tuple[str, ...]:
        """The pruning code, and GPTQ, whose solver 2:4 sparsity uses."""
        return (*FOUNDATION, "compress/calibration", "compress/prune", "compress/quantize")

    def calibrates(self, options: PruneOptions) -> bool:
        """Scores, refits and rotations may depend on the text."""
        return options.needs_calibration

    def settled(self, options: PruneOptions, source: State, plan: PlanContext) -> PruneOptions:
        """The options with the budget turned into shares."""
        return plan.fit(options, source)

    def after(self, options: PruneOptions, source: State, plan: PlanContext) -> State:
        """The smaller model."""
        return pruned_state(options, source)

    def cost(self, options: PruneOptions, source: State, result: State, plan: PlanContext) -> Cost:
        """Scoring every row once, twice for the gradient, and one solve per layer if sparse."""
        from ..calibration.operations import layerwise_operations
        from .memory import proof_memory, prune_memory, whole_memory

        model = source.architecture
        small = result.architecture
        rows = plan.calibration
        needs: list[float] = []
        if options.removes:
            needs += [
                prune_memory(
                    model,
                    small,
                    options.criterion,
                    plan.tokens,
                    rows.seq_len,
                    plan.activation_budget,
                    compensate=options.compensate,
                ),
                proof_memory(small, rows.seq_len, plan.proof),
            ]
        if options.merge_kv is not None:
            needs.append(whole_memory(model, 0, rows.seq_len))
        if options.sparsity:
            needs.append(whole_memory(small, plan.tokens, rows.seq_len))
        ram = max(needs, default=0.0)
        operations = 2.0 * plan.tokens * source.active_parameters
        operations *= 2 if CRITERIA[options.criterion].needs_gradient else 1
        if options.sparsity:
            operations += layerwise_operations(result, plan.tokens)
        return Cost(ram, operations)

    def smaller(self, options: PruneOptions, plan: PlanContext) -> tuple[Smaller, ...]:
        """States on disk, a criterion that reads the model layer by layer, shorter rows."""
        shorter = plan.calibration.seq_len // 4
        changes = [
            Smaller("--activation-budget 0", activation_budget=0),
            Smaller("--criterion activation", {"criterion": "activation"}),
            Smaller("--no-compensate", {"compensate": False}),
            Smaller(f"--seq-len {shorter}", seq_len=shorter),
        ]
        return tuple(changes[: None if shorter > 1 else -1])

    def run(
        self, options: PruneOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the pruned checkpoint."""
        from .runner import prune

        return prune(options, source, out, context)
