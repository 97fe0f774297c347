"""A training whose state cannot be saved: one message, nothing half-written, and it resumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from file_limits import files_of_at_most

from edgewright.checkpoints import disk
from edgewright.compress.distill.options import DistillOptions, Stage, TeacherCacheOptions
from edgewright.compress.distill.prepared_objective import PreparedObjective
from edgewright.compress.distill.runner import distill
from edgewright.errors import NoSpace
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}


@pytest.fixture
def options(make_model: MakeModel, text_file: Path) -> DistillOptions:
    return DistillOptions(
        teacher=str(make_model("llama", seed=1, **SMALL)),
        data=f"text:{text_file}",
        seq_len=24,
        batch_size=2,
        stages=(Stage(loss="logits", steps=4),),
        save_every=2,
        bf16=False,
    )


@pytest.mark.parametrize("share", [0.5, 1.5], ids=["weights", "optimizer"])
def test_a_state_that_cannot_be_saved(
    share: float,
    options: DistillOptions,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    """The weights are written by safetensors, the optimizer's state by torch."""
    source = make_model("llama", **SMALL)
    weights = (source / "model.safetensors").stat().st_size
    known = replace(context, depends_on={"this": 1})
    with (
        pytest.raises(NoSpace, match=r"step-00001-00002: could not be written: .* free\)"),
        files_of_at_most(int(weights * share)),
    ):
        distill(options, source, tmp_path / "out", known)
    assert not list(tmp_path.iterdir())
    distill(options, source, tmp_path / "out", known)
    distill(options, source, tmp_path / "same", known)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out", "same"]
    files = [tmp_path / name / "model.safetensors" for name in ("out", "same")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_room_for_a_state_is_checked_before_the_training(
    options: DistillOptions,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 100_000)
    monkeypatch.setattr(PreparedObjective, "step", lambda *_: pytest.fail("the training began"))
    with pytest.raises(NoSpace, match=r"MB needed for a saved state of the training, 100\.0 kB"):
        distill(
            options,
            make_model("llama", **SMALL),
            tmp_path / "out",
            replace(context, depends_on={"this": 1}),
        )
    assert not list(tmp_path.iterdir())


def test_a_teacher_cache_that_cannot_be_written(
    options: DistillOptions, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    cache = TeacherCacheOptions(path=str(tmp_path / "cache"))
    cached = options.model_copy(update={"teacher_cache": cache})
    student = make_model("llama", **SMALL)
    with (
        pytest.raises(NoSpace, match=r"logits-00000\.safetensors: .* kB needed"),
        files_of_at_most(5000),
    ):
        distill(cached, student, tmp_path / "out", context)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["teacher.json"]
