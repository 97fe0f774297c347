"""Curves for a tracker: what TensorBoard reads back is what was learnt, once, also after a kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import before_step, interrupt
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edgewright.compress.distill import tracking
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.prepared_objective import NotFinite, PreparedObjective
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.tracking import Tracking, check_tracker
from edgewright.compress.iterate.options import RecoverOptions
from edgewright.errors import EdgewrightError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
STAGES = (
    Stage(loss="hidden", steps=3, lr=3e-3),
    Stage(loss="logits", steps=8, lr=1e-3, early_stop={"patience": 9, "every": 4}),
)


def options(text_file: Path, teacher: Path, **changes: Any) -> DistillOptions:
    settings = {
        "teacher": str(teacher),
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 2,
        "bf16": False,
        "hold_out": 2,
    }
    return DistillOptions(
        **settings | {"stages": STAGES, "tracker": "tensorboard", "save_every": 2} | changes
    )


def curves(folder: Path, stage: str) -> dict[str, list[tuple[int, float]]]:
    """Read the scalars of one stage with TensorBoard: steps and values by name."""
    events = EventAccumulator(str(folder / stage)).Reload()
    return {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def approximately(values: list[float]) -> list[Any]:
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in enumerate(values, 1)]


def test_tensorboard_reads_back_the_losses(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    result = distill(options(text_file, teacher), student, tmp_path / "out", context)
    folder = tmp_path / "out.tensorboard"
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.tensorboard"}
    assert f"curves for tensorboard in {folder}" in result.notes
    for stage, losses in result.details["loss"].items():
        assert curves(folder, stage)["loss"] == approximately(losses)
    rates = [rate for _, rate in curves(folder, "logits")["lr"]]
    assert rates[0] == 0 and rates[1] == pytest.approx(1e-3), "a step of warm-up"
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert curves(folder, "logits")["held_out"] == [
        (step, pytest.approx(loss)) for step, loss in result.details["held_out"]["logits"]
    ]
    plain = distill(options(text_file, teacher, tracker=None), student, tmp_path / "plain", context)
    assert plain.details == result.details


def test_a_killed_run_has_every_step_once(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """Steps after the last save were written, and are written again."""
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    asked = options(text_file, teacher, save_every=4)
    named = replace(context, depends_on={"this": 1})
    with before_step(10, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    folder = tmp_path / "out.tensorboard"
    assert [step for step, _ in curves(folder, "logits")["loss"]] == list(range(1, 8))
    result = distill(asked, student, tmp_path / "out", named)
    for stage, losses in result.details["loss"].items():
        assert curves(folder, stage)["loss"] == approximately(losses)


def test_curves_before_a_failure_are_written(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    def spoil(run: PreparedObjective) -> None:
        next(run.objective.student.parameters()).data[:] = torch.nan

    student = make_model("llama", seed=1, **SMALL)
    asked = options(text_file, student, hold_out=0, stages=(Stage(loss="labels", steps=5),))
    with before_step(3, spoil), pytest.raises(NotFinite):
        distill(asked, student, tmp_path / "out", context)
    assert [step for step, _ in curves(tmp_path / "out.tensorboard", "labels")["loss"]] == [1, 2, 3]


def test_a_missing_package_is_one_message(
    cli: Callable[..., tuple[int, str, str]],
    make_model: MakeModel,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = tracking.find_spec
    monkeypatch.setattr(
        tracking,
        "find_spec",
        lambda name: None if name in ("tensorboard", "wandb") else found(name),
    )
    with pytest.raises(
        EdgewrightError, match="tracker: wandb needs the wandb package, which is not installed"
    ) as caught:
        check_tracker("wandb")
    assert caught.value.hint == "pip install wandb"
    student = make_model("llama", seed=1, **SMALL)
    what = (
        "distill",
        student,
        "--teacher",
        "none",
        "--data",
        f"text:{text_file}",
        "--label-steps",
        2,
        "--seq-len",
        16,
    )
    code, _, err = cli(*what, "--tracker", "tensorboard", "--out", tmp_path / "out")
    printed = " ".join(err.split())
    assert (
        code,
        "tensorboard needs the tensorboard package" in printed,
        "pip install 'edgewright[track]'" in printed,
    ) == (1, True, True), err
    assert not list(tmp_path.iterdir())
    check_tracker(None)


def test_what_cannot_be_tracked_is_refused() -> None:
    with pytest.raises(ValidationError, match="'tensorboard', 'trackio' or 'wandb'"):
        DistillOptions(tracker="mlflow")
    with pytest.raises(ValidationError, match="leave `tracker` out"):
        RecoverOptions(tracker="tensorboard")


def test_nothing_is_sent(tmp_path: Path) -> None:
    project, settings = Tracking("wandb", tmp_path / "out.wandb", "logits").settings(3)
    assert (project, settings["mode"], settings["dir"]) == (
        "out",
        "offline",
        str(tmp_path / "out.wandb"),
    )


def test_curves_from_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    what = (
        "distill",
        student,
        "--teacher",
        "none",
        "--data",
        f"text:{text_file}",
        "--label-steps",
        2,
        "--seq-len",
        16,
        "--batch-size",
        2,
    )
    code, out, err = cli(
        *what, "--tracker", "tensorboard", "--device", "cpu", "--out", tmp_path / "out", "--json"
    )
    assert code == 0, err
    losses = json.loads(out)["details"]["loss"]["labels"]
    assert curves(tmp_path / "out.tensorboard", "labels")["loss"] == approximately(losses)
