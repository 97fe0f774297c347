"""A step that does not fit is refused before it begins; of one that ran, the peak is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewright.checkpoints.free_memory import FreeMemory
from edgewright.commands import compress, deliver, measure, project
from edgewright.errors import Refused
from edgewright.pipeline.registry import STEPS
from edgewright.pipeline.step_memory import run_within_memory
from edgewright.steps import memory_check
from edgewright.steps.context import CalibrationData, StepContext, StepResult
from edgewright.steps.state import checkpoint_state
from edgewright.steps.step import PlanContext

MakeModel = Callable[..., Path]
MB = 1 << 20
VERBS = {
    "prune": compress.prune,
    "quantize": compress.quantize,
    "distill": compress.distill,
    "iterate": compress.iterate,
    "export": deliver.export,
}
TASK = "builtin:reasoning"
CALIBRATION = {"calibration": TASK}
PLAN = PlanContext(
    "quantize",
    CalibrationData(),
    0,
    lambda name: checkpoint_state(Path(name)),
    lambda options, _: options,
)


def short_of_memory(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    left = FreeMemory(count, "its container")
    monkeypatch.setattr(memory_check, "memory_left", lambda: left)


def taking(monkeypatch: pytest.MonkeyPatch, megabytes: int) -> None:
    """Let a quantize step do nothing but take so much memory."""

    def run(*_: Any) -> StepResult:
        torch.ones(megabytes * MB // 4).sum()
        return StepResult(["done"])

    monkeypatch.setattr(STEPS["quantize"], "run", run)


def run(model: Path, out: Path, **settings: Any) -> dict[str, int]:
    step = STEPS["quantize"]
    context = StepContext(**settings)
    return run_within_memory(step, step.Options(), model, out, context, PLAN)[1]


def test_a_step_does_not_inherit_the_peak_of_an_earlier_one(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    taking(monkeypatch, 300)
    large = run(model, tmp_path / "a")
    taking(monkeypatch, 1)
    small = run(model, tmp_path / "b")
    assert large["peak_rss_bytes"] > small["peak_rss_bytes"] + 200 * MB
    assert small["predicted_bytes"] > small["peak_rss_bytes"] / 2


def test_a_step_that_does_not_fit_is_not_begun(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    taking(monkeypatch, 1)
    short_of_memory(monkeypatch, MB)
    with pytest.raises(Refused, match=r"^quantize needs .* 1\.05 MB are free here"):
        run(model, tmp_path / "a")
    assert run(model, tmp_path / "a", memory_check=False)["peak_rss_bytes"] > 0


def test_room_is_made_only_if_memory_is_short(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    taking(monkeypatch, 1)
    made: list[int] = []
    step = STEPS["quantize"]

    def attempt() -> None:
        run_within_memory(
            step,
            step.Options(),
            model,
            tmp_path / "a",
            StepContext(memory_check=False),
            PLAN,
            lambda: made.append(1),
        )

    attempt()
    assert not made
    short_of_memory(monkeypatch, MB)
    attempt()
    assert made


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("prune", {"heads": 0.5, **CALIBRATION}),
        ("quantize", CALIBRATION),
        ("distill", {"teacher": "none", "data": TASK}),
        ("iterate", {"ffn": 0.5, "data": TASK, **CALIBRATION}),
        ("export", {"precision": "fp32", **CALIBRATION}),
    ],
)
def test_every_verb_refuses_before_it_writes(
    verb: str,
    options: dict[str, Any],
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short_of_memory(monkeypatch, 1000)
    out = tmp_path / "out"
    with pytest.raises(Refused, match=rf"^{verb} needs .* of memory, as predicted") as caught:
        VERBS[verb].call(str(make_model("llama")), out=out, **options)
    assert "--no-memory-check" in caught.value.hint
    assert not any(tmp_path.iterdir())


def test_a_measurement_that_does_not_fit_is_refused(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_of_memory(monkeypatch, 1000)
    model = str(make_model("llama"))
    with pytest.raises(Refused, match=r"needs .* of memory"):
        measure.bench.call(model, perplexity=[TASK])
    with pytest.raises(Refused, match=r"needs .* of memory"):
        measure.kv_study.call(model, perplexity=[TASK])
    with pytest.raises(Refused, match=r"needs .* of memory"):
        compress.traces.call(model, prompts=TASK, out=Path("never"))


RECIPE = """
model: MODEL
calibration: {source: "builtin:reasoning", samples: 2, seq_len: 16}
evaluate: {perplexity: ["builtin:reasoning"], windows: 2, seq_len: 32, latency: null}
steps:
  - {kind: prune, heads: 0.5, criterion: norm, compensate: false}
"""


def test_a_run_is_refused_before_any_step_and_records_peaks(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("MODEL", str(make_model("llama"))))
    with monkeypatch.context() as patch:
        short_of_memory(patch, 1000)
        with pytest.raises(Refused, match=r"^step `prune` needs") as caught:
            project.run.call(recipe, out=tmp_path / "run")
    assert "memory_check: false" in caught.value.hint
    assert not (tmp_path / "run").exists()
    project.run.call(recipe, out=tmp_path / "run")
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    entry = ledger["steps"][1]
    assert 0.3 < entry["predicted_bytes"] / entry["peak_rss_bytes"] < 2
