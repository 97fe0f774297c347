"""What an interrupted run saved is data: a pickle that runs code is refused before it does."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from interruptions import before_step, interrupt

from edgewright.checkpoints.sealed import write_sealed
from edgewright.compress.distill import training_state
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.errors import UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_a_pickle_in_a_save_runs_nothing(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    asked = DistillOptions(
        teacher=None,
        data=f"text:{text_file}",
        seq_len=24,
        batch_size=4,
        bf16=False,
        save_every=2,
        stages=(Stage(loss="labels", steps=5),),
    )
    named = replace(context, depends_on={"this": 1})
    student = make_model("qwen2", num_hidden_layers=2)
    with before_step(3, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    (save,) = (tmp_path / ".out.learning").glob("step-*")
    found = list(save.glob("custom_checkpoint_*.pkl"))
    assert found
    mark = tmp_path / "ran"
    losses = training_state._losses(save)
    found[0].write_bytes(pickle.dumps(_Evil(mark)))
    files = {training_state.FILES: training_state._digests(save)}
    write_sealed(save / training_state.LOSSES, {**losses, **files})  # whoever did it knows how
    with pytest.raises(UsageError, match="no state that edgewright saved") as caught:
        distill(asked, student, tmp_path / "out", named)
    assert "--fresh" in caught.value.hint
    assert not mark.exists()
