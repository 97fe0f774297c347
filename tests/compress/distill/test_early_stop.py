"""Early stopping: a stage ends, keeps its best weights, and resumes identically after a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import before_step, interrupt
from pydantic import ValidationError
from torch import nn

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.early_stop import EarlyStopOptions, EarlyStopping
from edgewright.compress.distill.objectives import LabelLearning
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.training_rows import StageRows
from edgewright.compress.iterate.options import RecoverOptions
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
STOP = EarlyStopOptions(patience=2, every=2)


def options(
    text_file: Path, *stages: Stage, teacher: Path | None = None, **changes: Any
) -> DistillOptions:
    settings = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
    }
    return DistillOptions(**settings | {"stages": stages, "hold_out": 6, "save_every": 3} | changes)


def labels(steps: int = 40, lr: float = 3e-2) -> Stage:
    """A learning rate so high that the loss soon rises."""
    return Stage(loss="labels", steps=steps, lr=lr, early_stop=STOP)


def watched(*losses: float) -> tuple[EarlyStopping, nn.Linear]:
    """Early stopping that got these losses, of a module whose weight is the number of the loss."""
    watch = EarlyStopping(EarlyStopOptions(patience=2, every=5), [])
    module = nn.Linear(1, 1)
    module.bias.requires_grad_(False)
    for number, loss in enumerate(losses):
        nn.init.constant_(module.weight, number)
        nn.init.constant_(module.bias, number)
        watch.add(5 * number, loss, module)
    return watch, module


@pytest.mark.parametrize(
    ("losses", "over", "best"),
    [
        ((), False, None),
        ((3.0, 2.0, 2.5), False, 1),
        ((3.0, 2.0, 2.5, 2.0), True, 1),
        ((3.0, 2.0, 2.5, 1.9, 2.0), False, 3),
        ((1.0, 2.0, 3.0), True, 0),
        ((3.0, math.nan, 2.0), False, 2),
        ((3.0, math.nan, math.nan), True, 0),
    ],
)
def test_patience(losses: tuple[float, ...], over: bool, best: int | None) -> None:
    watch, module = watched(*losses)
    assert watch.over is over
    watch.restore_best(module)
    if best is not None:
        assert module.weight.item() == best
        assert module.bias.item() == len(losses) - 1  # not trained, so not restored


def test_when_it_is_measured() -> None:
    watch, _ = watched()
    assert [step for step in range(13) if watch.due(step, 12)] == [0, 5, 10, 12]


def test_the_best_weights_are_kept(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    asked = options(text_file, labels())
    result = distill(asked, student, tmp_path / "out", context)
    losses, curve = result.details["loss"]["labels"], result.details["held_out"]["labels"]
    assert len(losses) == curve[-1][0] < 40
    assert [step for step, _ in curve] == list(range(0, len(losses) + 1, 2))
    best, lowest = min(curve, key=lambda pair: pair[1])
    assert curve[-3] == [best, lowest] and best > 0, "two measurements after the lowest"
    rows = torch.stack(StageRows(asked, student, context.seed).held_out(asked.stages[0]))
    assert rows.shape == (6, 2, 24)
    with torch.no_grad():
        assert float(
            LabelLearning(load_model(tmp_path / "out"))(rows[:, 0], rows[:, 1])
        ) == pytest.approx(lowest, rel=1e-5)
    ended = f"early stop (labels): ended after step {len(losses)} of 40"
    kept = f"kept the weights after step {best:.0f}, with a loss of {lowest:.4f}"
    assert f"{ended}; {kept} on 6 held-out rows" in result.notes, result.notes
    assert f"{len(losses) * 4 * 24:,} tokens seen" in result.notes


def test_a_stage_that_runs_to_its_end(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """Measuring does not change training, and uses rows that are not trained on."""
    student = make_model("qwen2", seed=1, **SMALL)
    calm = labels(5, 1e-3)
    result = distill(options(text_file, calm), student, tmp_path / "out", context)
    distill(
        options(text_file, calm.model_copy(update={"early_stop": None})),
        student,
        tmp_path / "plain",
        context,
    )
    assert [step for step, _ in result.details["held_out"]["labels"]] == [0, 2, 4, 5]
    assert any("early stop (labels): ran to its last step, 5" in note for note in result.notes)
    one, two = read_state(tmp_path / "out"), read_state(tmp_path / "plain")
    assert all(torch.equal(one[name], two[name]) for name in one)


BOTH = (Stage(loss="hidden", steps=30, lr=5e-2, early_stop=STOP), labels(lr=1e-1))


@pytest.mark.parametrize("number", [1, 3, -2])
def test_a_killed_run_stops_where_it_would_have(
    number: int, make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """Kill before the first save, after it, and in the stage after one that ended early."""
    teacher, student = make_model("llama", hidden_size=256), make_model("llama", seed=1, **SMALL)
    asked = options(text_file, *BOTH, teacher=teacher)
    named = replace(context, depends_on={"this": 1})
    whole = distill(asked, student, tmp_path / "whole", named)
    taken = [len(curve) for curve in whole.details["loss"].values()]
    assert taken[0] < 30 and taken[1] < 40, taken
    with (
        before_step(number if number > 0 else sum(taken) + number, interrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        distill(asked, student, tmp_path / "out", named)
    again = distill(asked, student, tmp_path / "out", named)
    assert again.details == whole.details
    assert again.notes == whole.notes
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_a_teacher_cache_knows_the_held_out_rows(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    stage = Stage(loss="logits", steps=4, early_stop=STOP)
    online = distill(
        options(text_file, stage, teacher=teacher), student, tmp_path / "online", context
    )
    cache = {"path": str(tmp_path / "cache"), "top_k": 512}
    cached = distill(
        options(text_file, stage, teacher=teacher, teacher_cache=cache),
        student,
        tmp_path / "cached",
        context,
    )
    for one, two in zip(
        online.details["held_out"]["logits"], cached.details["held_out"]["logits"], strict=True
    ):
        assert one == pytest.approx(two, rel=1e-5)


def test_built_in_data_is_measured_on_another_seed(make_model: MakeModel) -> None:
    student = make_model("llama", seed=1, **SMALL)
    asked = DistillOptions(
        teacher=None, data="builtin:reasoning", hold_out=3, seq_len=64, stages=(labels(2),)
    )
    rows = StageRows(asked, student, 0)
    held = rows.held_out(asked.stages[0])
    learnt = list(rows.of(asked.stages[0]))
    assert [row.shape for row in held] == [(2, 64)] * 3
    assert not any(torch.equal(one, other) for one in held for other in learnt)


def test_early_stop_without_held_out_rows_is_refused() -> None:
    with pytest.raises(
        ValidationError, match="`early_stop` measures on held-out rows, and there are none"
    ):
        DistillOptions(teacher=None, stages=(labels(),))
    with pytest.raises(ValidationError, match="no round may use these rows itself"):
        RecoverOptions(teacher=None, hold_out=3, stages=(labels(),))


def test_the_command_line_stops_early(
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
        4,
        "--seq-len",
        16,
        "--batch-size",
        2,
    )
    more = ("--early-stop", 2, "--measure-every", 1, "--device", "cpu", "--out", tmp_path / "out")
    code, _, err = cli(*what, *more)
    assert (code, "there are none: set their number with `hold_out`" in " ".join(err.split())) == (
        2,
        True,
    )
    code, out, err = cli(*what, *more, "--hold-out", 3, "--json")
    assert code == 0, err
    assert '"held_out": {' in out
