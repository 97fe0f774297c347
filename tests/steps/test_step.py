"""The contract of a step, held by every step of the registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.compress.distill.options import DistillOptions
from edgewright.compress.iterate.options import INPUT, IterateOptions
from edgewright.compress.prune.options import Budget, PruneOptions
from edgewright.errors import UsageError
from edgewright.pipeline.prune_budget import shares_within
from edgewright.pipeline.registry import STEPS
from edgewright.steps.context import CalibrationData
from edgewright.steps.state import State, checkpoint_state
from edgewright.steps.step import FOUNDATION, PlanContext

MakeModel = Callable[..., Path]
EXAMPLES: dict[str, dict[str, Any]] = {
    "prune": {"heads": 0.25, "ffn": 0.5},
    "distill": {"student": {"from": "large", "ffn": 0.5}},
    "iterate": {"prune": {"ffn": 0.5}, "rounds": 2},
    "quantize": {},
    "export": {"precision": "fp16"},
}


@pytest.fixture
def large(make_model: MakeModel) -> State:
    return checkpoint_state(make_model("llama"))


@pytest.fixture
def plan(large: State) -> PlanContext:
    """A plan in which `large` and `baseline` are the same model."""

    def fit(options: Any, source: State) -> Any:
        return shares_within(options, source, None)

    states = {"large": large, "baseline": large}
    calibration = CalibrationData("builtin:reasoning", samples=16, seq_len=32)
    return PlanContext("the-step", calibration, 1 << 30, states.__getitem__, fit)


def example(kind: str, **changes: Any) -> tuple[Any, Any]:
    step = STEPS[kind]
    return step, step.Options.model_validate(EXAMPLES[kind] | changes)


def test_every_step_has_an_example() -> None:
    assert EXAMPLES.keys() == STEPS.keys()
    assert all(kind == step.kind for kind, step in STEPS.items())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_question_has_an_answer(kind: str, large: State, plan: PlanContext) -> None:
    step, options = example(kind)
    settled = step.settled(options, large, plan)
    after = step.after(settled, large, plan)
    cost = step.cost(settled, large, after, plan)
    assert after.parameters <= large.parameters
    assert cost.ram_bytes > 0
    assert cost.operations > 0
    assert cost.workspace_bytes >= 0
    assert set(FOUNDATION) < set(step.code(options))
    assert step.with_data(options, "nowhere", "elsewhere") == options
    assert step.inputs(options).models <= {"large", "baseline"}


def test_a_plan_grows_with_its_calibration_data(large: State, plan: PlanContext) -> None:
    more = replace(plan, calibration=replace(plan.calibration, samples=1600))
    for kind in ("prune", "quantize", "iterate"):
        step, options = example(kind)
        after = step.after(options, large, plan)
        few = step.cost(options, large, after, plan)
        many = step.cost(options, large, after, more)
        assert many.operations > few.operations, kind


def test_what_options_name() -> None:
    stages = [{"loss": "logits", "steps": 1, "data": "text:a"}, {"loss": "labels", "steps": 1}]
    distill = DistillOptions.model_validate(
        {
            "teacher": "t",
            "student": {"from": "s", "ffn": 0.5},
            "data": "text:b",
            "stages": stages,
        }
    )
    named = STEPS["distill"].inputs(distill)
    assert named.models == {"t", "s"}
    assert named.data == {"text:a", "text:b"}
    moved = STEPS["distill"].with_data(distill, "text:a", "text:c")
    assert STEPS["distill"].inputs(moved).data == {"text:b", "text:c"}


def test_rounds_name_what_training_names_but_not_their_own_input() -> None:
    step, options = example("iterate", held_out="text:held", recover={"data": "text:a"})
    assert options.recover.teacher == INPUT
    assert step.inputs(options).models == frozenset()
    assert step.inputs(options).data == {"text:a", "text:held"}
    moved = step.with_data(options, "text:a", "text:b")
    assert step.inputs(moved).data == {"text:b", "text:held"}


def test_budgets_are_settled_on_the_model_that_is_pruned(large: State, plan: PlanContext) -> None:
    budget = Budget(parameters=int(large.parameters * 0.9))
    narrow = large.architecture.with_config(intermediate_size=256)
    small = replace(large, architecture=narrow)
    prune = PruneOptions(budget=budget)
    wanted = STEPS["prune"].settled(prune, large, plan)
    assert wanted.budget is None
    assert wanted.ffn > 0
    rounds = STEPS["iterate"].settled(IterateOptions(prune=prune), large, plan)
    assert rounds.prune == wanted
    student = {"from": "large", "budget": {"parameters": budget.parameters}}
    distill = DistillOptions.model_validate({"student": student})
    settled = STEPS["distill"].settled(distill, small, plan)
    assert settled.student.ffn == wanted.ffn
    assert settled.student.source == "large"


def test_messages_name_the_step(large: State, plan: PlanContext) -> None:
    packed = replace(large, precision="int4")
    step, options = example("distill", student=None)
    with pytest.raises(UsageError, match="the-step: a packed checkpoint cannot be trained"):
        step.after(options, packed, plan)


def test_aliases_come_first(large: State, plan: PlanContext) -> None:
    other = replace(large, precision="fp16")
    assert plan.with_alias(INPUT, other).state(INPUT) is other
    assert plan.with_alias("large", other).state("large") is other
    assert plan.state("large") is large
