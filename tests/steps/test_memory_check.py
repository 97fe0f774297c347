"""Work that does not fit into memory is refused, with other ways that do fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.free_memory import FreeMemory
from edgewright.commands import compress as verbs
from edgewright.errors import Refused
from edgewright.pipeline.prune_budget import shares_within
from edgewright.pipeline.registry import STEPS
from edgewright.steps import memory_check
from edgewright.steps.context import CalibrationData
from edgewright.steps.memory_check import Alternative, alternatives, require_memory, step_bytes
from edgewright.steps.state import State, checkpoint_state
from edgewright.steps.step import PlanContext

MakeModel = Callable[..., Path]
EXAMPLES: dict[str, dict[str, Any]] = {
    "prune": {"heads": 0.25, "criterion": "taylor", "compensate": True},
    "distill": {"teacher": "large", "batch_size": 64},
    "iterate": {"prune": {"ffn": 0.5}, "rounds": 2},
    "quantize": {},
    "export": {"precision": "fp16"},
}


@pytest.fixture
def large(make_model: MakeModel) -> State:
    return checkpoint_state(make_model("llama"))


@pytest.fixture
def plan(large: State) -> PlanContext:
    def fit(options: Any, source: State) -> Any:
        return shares_within(options, source, None)

    calibration = CalibrationData("builtin:reasoning", samples=4096, seq_len=512)
    return PlanContext("the-step", calibration, 1 << 30, lambda _: large, fit)


def free(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    left = None if count is None else FreeMemory(count, "its container")
    monkeypatch.setattr(memory_check, "memory_left", lambda: left)


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 10**9)
    require_memory("work", 1e9)
    free(monkeypatch, None)
    require_memory("work", 1e18)


def test_one_message_says_needed_free_and_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 2 * 10**9)
    ways = [Alternative("--small", 1e9), Alternative("--large", 3e9), Alternative("--tiny", 5e6)]
    with pytest.raises(Refused, match=r"^work needs 4\.00 GB .* 2\.00 GB are free here") as caught:
        require_memory("work", 4e9, ways)
    assert caught.value.exit_code == 3
    assert "limited by its container" in str(caught.value)
    assert "--small (1.00 GB), or --tiny (5.00 MB)" in caught.value.hint
    assert "--large" not in caught.value.hint
    assert "--no-memory-check" in caught.value.hint


def test_nothing_smaller_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 10)
    with pytest.raises(Refused) as caught:
        require_memory("work", 4e9, [Alternative("--small", 1e9)])
    assert "a machine with more memory" in caught.value.hint


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_advice_can_be_typed_and_saves_memory(
    kind: str, large: State, plan: PlanContext
) -> None:
    step = STEPS[kind]
    options = step.Options.model_validate(EXAMPLES[kind])
    now = step_bytes(step, options, large, plan)
    for change in step.smaller(options, plan):
        smaller, _, _ = change.applied(options, large, plan)
        assert step.Options.model_validate(smaller.model_dump()) == smaller, change.advice
    for way in alternatives(step, options, large, plan):
        assert way.bytes < now, way.advice
        flags = re.findall(r"--[a-z-]+", way.advice)
        known = {flag for p in getattr(verbs, kind).options for flag in declared(p)}
        assert set(flags) <= known, way.advice
    if kind != "export":
        assert list(alternatives(step, options, large, plan))


def declared(parameter: Any) -> list[str]:
    """The flags of an option of a verb."""
    return re.findall(r"--[a-z0-9-]+", str(parameter.flags))


def test_all_changes_together_come_last(large: State, plan: PlanContext) -> None:
    step = STEPS["distill"]
    options = step.Options.model_validate(EXAMPLES["distill"])
    *_, last = alternatives(step, options, large, plan)
    assert "--accumulate 64" in last.advice
    assert "--lora 16" in last.advice


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_deeper_model_needs_no_more_where_it_is_streamed(
    kind: str, make_model: MakeModel, plan: PlanContext
) -> None:
    step = STEPS[kind]
    streamed = {"prune": {"heads": 0.25, "criterion": "norm"}}.get(kind, EXAMPLES[kind])
    options = step.Options.model_validate(streamed)
    plan = replace(plan, proof="streamed", activation_budget=0)
    two, four = (checkpoint_state(make_model("llama", num_hidden_layers=count)) for count in (2, 4))
    plan = replace(plan, state_of=lambda _: four)
    before, after = (step_bytes(step, options, state, plan) for state in (two, four))
    assert (before == after) is (kind in ("prune", "quantize"))


def test_states_on_disk_need_less(large: State, plan: PlanContext) -> None:
    step = STEPS["quantize"]
    less = replace(plan, activation_budget=0)
    assert step_bytes(step, step.Options(), large, less) < step_bytes(
        step, step.Options(), large, plan
    )
