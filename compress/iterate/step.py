"""The iterate step: its place in recipes and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...steps.state import State
from ...steps.step import Cost, Inputs, PlanContext, Smaller, Step
from ..distill.step import DistillStep
from ..prune.options import PruneOptions
from ..prune.step import PruneStep, pruned_state
from .options import INPUT, IterateOptions

if TYPE_CHECKING:
    from ...steps.context import StepContext, StepResult

__all__ = ["IterateStep"]

PRUNE = PruneStep()
DISTILL = DistillStep()


class IterateStep(Step[IterateOptions]):
    """Prune a little, recover, measure, repeat."""

    kind = "iterate"
    Options = IterateOptions
    done = "pruned and distilled in rounds"

    def code(self, options: IterateOptions) -> tuple[str, ...]:
        """The rounds, pruning and training."""
        parts = (*PRUNE.code(options.prune), *DISTILL.code(options.recover), "compress/iterate")
        return tuple(dict.fromkeys(parts))

    def inputs(self, options: IterateOptions) -> Inputs:
        """What training names, and the held-out data."""
        named = DISTILL.inputs(options.recover)
        held_out = options.held_out or options.recover.data
        return Inputs(named.models - {INPUT}, named.data | {held_out})

    def calibrates(self, options: IterateOptions) -> bool:
        """As for pruning."""
        return options.prune.needs_calibration

    def with_data(self, options: IterateOptions, named: str, source: str) -> IterateOptions:
        """The options with another data source in training."""
        recover = DISTILL.with_data(options.recover, named, source)
        return options.model_copy(update={"recover": recover})

    def settled(self, options: IterateOptions, source: State, plan: PlanContext) -> IterateOptions:
        """The options with the budget of the whole cut turned into shares."""
        return options.model_copy(update={"prune": plan.fit(options.prune, source)})

    def after(self, options: IterateOptions, source: State, plan: PlanContext) -> State:
        """The model of the last round."""
        return _rounds(options, source)[-1][1]

    def cost(
        self, options: IterateOptions, source: State, result: State, plan: PlanContext
    ) -> Cost:
        """All rounds, whose models stay on disk until the last round is done."""
        inside = plan.with_alias(INPUT, source)
        costs: list[Cost] = []
        before = source
        disk = 0
        for cut, after in _rounds(options, source):
            costs.append(PRUNE.cost(cut, before, after, inside))
            costs.append(DISTILL.cost(options.recover, after, after, inside))
            disk += after.weight_bytes
            before = after
        return Cost(
            max(cost.ram_bytes for cost in costs), sum(cost.operations for cost in costs), disk
        )

    def smaller(self, options: IterateOptions, plan: PlanContext) -> tuple[Smaller, ...]:
        """The changes of options of pruning and of training."""
        cut = [
            replace(one, inside="prune")
            for one in PRUNE.smaller(options.prune, plan)
            if one.options
        ]
        train = [replace(one, inside="recover") for one in DISTILL.smaller(options.recover, plan)]
        return (*cut, *train)

    def run(
        self, options: IterateOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Run the rounds, and write the best model."""
        from .runner import iterate  # late: torch and transformers take seconds

        return iterate(options, source, out, context)


def _rounds(options: IterateOptions, source: State) -> list[tuple[PruneOptions, State]]:
    """The cut of every round, and the model that it leaves."""
    from ..prune.schedule import spread

    rounds: list[tuple[PruneOptions, State]] = []
    state = source
    for cut in spread(options.prune, source.architecture, options.rounds):
        state = pruned_state(cut, state)
        rounds.append((cut, state))
    return rounds
