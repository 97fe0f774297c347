"""Training that is interrupted, fails or saves memory: no loss of work, identical results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interruptions import before_step, interrupt
from torch import Tensor, nn

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.prepared_objective import NotFinite, PreparedObjective
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.trainer import TrainConfig, train
from edgewright.errors import EdgewrightError, Refused, UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
BOTH = (Stage(loss="hidden", steps=4, lr=3e-3), Stage(loss="logits", steps=5, lr=3e-3))


def options(teacher: Path | None, text_file: Path, **changes: Any) -> DistillOptions:
    settings = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
    }
    return DistillOptions(**settings | {"stages": BOTH, "save_every": 2} | changes)


# Interrupted


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        (3, {}),
        (4, {}),
        (7, {}),
        (7, {"optimizer": "muon"}),
        (7, {"lora": {"r": 4}}),
        (7, {"qat": {"bits": 4, "group_size": 64}}),
        (
            5,
            {
                "accumulate": 2,
                "checkpoint_layers": True,
                "stages": (Stage(loss="labels", steps=8),),
            },
        ),
    ],
    ids=["first stage", "between", "second stage", "muon", "lora", "qat", "labels"],
)
def test_an_interrupted_run_resumes_with_the_identical_next_loss(
    number: int,
    changes: dict[str, Any],
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    teacher, student = make_model("qwen2"), make_model("qwen2", seed=1, hidden_size=128, **SMALL)
    asked = options(teacher, text_file, **changes)
    named = replace(context, depends_on={"this": 1})
    whole = distill(asked, student, tmp_path / "whole", named)
    with before_step(number, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    assert len(list((tmp_path / ".out.learning").glob("step-*"))) == 1
    again = distill(asked, student, tmp_path / "out", named)
    assert again.details == whole.details
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "out"}


def test_only_steps_after_the_save_run_again(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path, capsys: Any
) -> None:
    teacher, student = make_model("qwen2"), make_model("qwen2", seed=1)
    asked = options(teacher, text_file)
    named = replace(context, depends_on={"this": 1})
    with before_step(7, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    capsys.readouterr()
    steps: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        step = PreparedObjective.step
        patch.setattr(
            PreparedObjective,
            "step",
            lambda self, index, batch: steps.append(index) or step(self, index, batch),
        )
        distill(asked, student, tmp_path / "out", named)
    assert steps == [2, 3, 4]
    assert "resumed after step 2 of stage 2" in capsys.readouterr().err


def test_another_step_or_a_fresh_one_begins_anew(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path, capsys: Any
) -> None:
    student = make_model("qwen2", seed=1)
    asked = options(None, text_file, stages=(Stage(loss="labels", steps=4),))
    for changes, message in (
        ({"depends_on": {"this": 2}}, "started afresh: this changed"),
        ({"fresh": True}, ""),
    ):
        named = replace(context, depends_on={"this": 1})
        with before_step(3, interrupt), pytest.raises(KeyboardInterrupt):
            distill(asked, student, tmp_path / "out", named)
        assert (
            len(
                distill(asked, student, tmp_path / "out", replace(named, **changes)).details[
                    "loss"
                ]["labels"]
            )
            == 4
        )
        err = capsys.readouterr().err
        assert message in err and "resumed" not in err


# Failures


def test_a_loss_that_is_not_finite_leaves_the_last_good_student(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama"), make_model("llama", seed=1, **SMALL)
    asked = options(teacher, text_file)
    named = replace(context, depends_on={"this": 1})
    kept: dict[str, Tensor] = {}

    def keep(run: PreparedObjective) -> None:
        kept.update({k: v.clone() for k, v in run.objective.student.state_dict().items()})

    def spoil(run: PreparedObjective) -> None:
        next(run.objective.student.parameters()).data[:] = torch.nan

    with before_step(6, keep), before_step(7, spoil), pytest.raises(NotFinite) as caught:
        distill(asked, student, tmp_path / "out", named)
    assert (
        "training (logits): the loss became nan at step 3; step 2 of stage 2 was saved in"
        in str(caught.value)
    )
    assert str(tmp_path / "out.last-good") in str(caught.value)
    assert "learning rate" in caught.value.hint
    assert not (tmp_path / "out").exists()
    good = read_state(tmp_path / "out.last-good")
    assert all(torch.equal(good[k], kept[k]) for k in good)
    load_model(tmp_path / "out.last-good")
    with (
        before_step(0, spoil),
        pytest.raises(NotFinite, match="at step 0; nothing was saved before it"),
    ):
        distill(asked, student, tmp_path / "none", named)
    assert not list(tmp_path.glob("*none*"))


def test_the_last_good_student_may_be_of_the_stage_before(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """That stage's objective had projections; the failed one has none."""
    teacher, student = make_model("qwen2", hidden_size=256), make_model("qwen2", seed=1, **SMALL)

    def spoil(run: PreparedObjective) -> None:
        run.objective.student.get_input_embeddings().weight.data[:] = torch.inf

    with before_step(4, spoil), pytest.raises(NotFinite, match="step 4 of stage 1 was saved"):
        distill(
            options(teacher, text_file),
            student,
            tmp_path / "out",
            replace(context, depends_on={"this": 1}),
        )
    assert not torch.equal(
        read_state(tmp_path / "out.last-good")["model.norm.weight"],
        read_state(student)["model.norm.weight"],
    )


class Greedy(nn.Module):
    """Asks for more memory than any machine has."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        return self.scale * torch.empty(2**46).sum()


def test_out_of_memory_says_what_to_lower() -> None:
    rows = [torch.ones(2, 5, dtype=torch.int64)] * 8
    with pytest.raises(
        EdgewrightError, match="out of memory at step 0, with 4 rows of 5 tokens at a time"
    ) as caught:
        train(Greedy(), rows, TrainConfig(2, 1e-3, 8, accumulate=2, bf16=False))
    assert all(
        option in caught.value.hint
        for option in (
            "--accumulate",
            "--checkpoint-layers",
            "--batch-size",
            "--seq-len",
            "--teacher-cache",
        )
    )


def test_what_does_not_fit_together_is_refused(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    large, small = make_model("llama"), make_model("llama", seed=1, **SMALL)

    def run(student: Path, teacher: Path, **changes: Any) -> None:
        distill(options(teacher, text_file, **changes), student, tmp_path / "out", context)

    with pytest.raises(
        Refused, match=r"the student \([0-9,]+ parameters .* is larger than the teacher"
    ) as caught:
        run(large, small)
    assert "exchange the two" in caught.value.hint
    for pair, message in (
        ((3, 3), "the student has 2 layers, and no layer 3"),
        ((1, 4), "the teacher has 3 layers, and no layer 4"),
    ):
        with pytest.raises(UsageError, match=message):
            run(small, large, stages=(Stage(loss="hidden", steps=1, layers=(pair,)),))
    with pytest.raises(
        UsageError, match="4 rows a step cannot be divided evenly among 1 processes with 3 parts"
    ):
        run(small, large, accumulate=3)
    assert not list(tmp_path.iterdir())


# Options


def losses(context: StepContext, student: Path, folder: Path, asked: DistillOptions) -> list[float]:
    (curve,) = distill(asked, student, folder, context).details["loss"].values()
    return curve


@pytest.mark.parametrize("loss", ["logits", "labels"])
def test_parts_of_a_step_have_its_loss(
    loss: Any, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Prompts are not scored, so the parts differ in scored tokens; one part has none."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"{i} boats?" * (i % 5 * 4), "completion": f"{i}"}) + "\n"
            for i in range(90)
        )
    )
    teacher, student = make_model("llama"), make_model("llama", seed=1)
    stages = (Stage(loss=loss, steps=6, lr=3e-3, hard=0.2),)
    asked = options(
        teacher, file, data=f"jsonl:{file}", stages=stages, batch_size=8, checkpoint_layers=True
    )
    whole = losses(
        context, student, tmp_path / "whole", asked.model_copy(update={"checkpoint_layers": False})
    )
    assert losses(context, student, tmp_path / "layers", asked) == pytest.approx(whole, rel=1e-5)
    assert losses(
        context, student, tmp_path / "parts", asked.model_copy(update={"accumulate": 8})
    ) == pytest.approx(whole, rel=1e-5)
    assert whole[-1] < whole[0]


def test_layers_are_recomputed(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """Every layer runs twice: once for the loss, once for the gradient."""
    student = make_model("llama")
    counted = []
    for again in (False, True):
        calls: list[int] = []

        def count(run: PreparedObjective, calls: list[int] = calls) -> None:
            layer = run.objective.student.model.layers[0].mlp
            layer.register_forward_pre_hook(lambda *_: calls.append(1))

        with before_step(0, count):
            stages = (Stage(loss="labels", steps=2),)
            asked = options(None, text_file, stages=stages, checkpoint_layers=again)
            distill(asked, student, tmp_path / f"{again}", context)
        counted.append(len(calls))
    assert counted == [2, 4]


def test_pairs_of_layers_and_data_of_a_stage(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("".join(f"nothing but numbers: {i} {i * i}\n" for i in range(80)))
    teacher, student = make_model("llama"), make_model("llama", seed=1, **SMALL)
    seen: list[tuple[list[tuple[int, int]] | None, Tensor]] = []
    step = PreparedObjective.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PreparedObjective,
            "step",
            lambda self, i, batch: (
                seen.append((getattr(self.objective, "pairs", None), batch)) or step(self, i, batch)
            ),
        )
        stages = (
            Stage(loss="hidden", steps=1, layers=((1, 3), (2, 2))),
            Stage(loss="labels", steps=1, data=f"text:{other}"),
            Stage(loss="logits", steps=1),
        )
        distill(options(teacher, text_file, stages=stages), student, tmp_path / "out", context)
        only = (Stage(loss="labels", steps=2),)
        distill(options(teacher, text_file, stages=only), student, tmp_path / "one", context)
        distill(options(teacher, other, stages=only[:1]), student, tmp_path / "two", context)
    (pairs, first), (_, second), (_, third), *rest = seen
    assert pairs == [(1, 3), (2, 2)]
    assert [
        torch.equal(a, b)
        for a, b in ((first, rest[0][1]), (third, rest[1][1]), (second, rest[2][1]))
    ] == [True] * 3


# What was done


def test_a_single_step_trains_and_is_recorded(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The rate of the first step of a warm-up is 0, so that one step would change nothing."""
    student = make_model("qwen2", seed=1, hidden_size=128, **SMALL)
    asked = options(None, text_file, stages=(Stage(loss="labels", steps=1, lr=3e-3),))
    distill(asked, student, tmp_path / "out", context)
    before, after = read_state(student), read_state(tmp_path / "out")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    recorded = json.loads((tmp_path / "out/edgewright.json").read_text())
    assert list(recorded["steps"].values()) == [1]
    assert recorded["bf16"] is False
