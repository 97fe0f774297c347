"""Rows that the student writes: correctly sampled and judged, and the same after a kill."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from interruptions import before_step, interrupt
from pydantic import ValidationError
from torch import Tensor

from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.losses import divergence
from edgewright.compress.distill.on_policy import (
    Continuation,
    OnPolicyDistillation,
    _sample,
    continuation_starts,
    continue_rows,
    is_continued,
)
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.prepared_objective import PreparedObjective
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.teacher_logits import OnlineTeacher
from edgewright.data.draws import uniforms
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}
IDS = torch.arange(72).view(3, 24) * 7 % 512
BEGINS = torch.tensor([6, 12, 9])


def options(text_file: Path, teacher: Path, *stages: Stage, **changes: Any) -> DistillOptions:
    settings = {
        "teacher": str(teacher),
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
        "save_every": 2,
    }
    return DistillOptions(**settings | {"stages": stages} | changes)


def logits(steps: int = 4, **changes: Any) -> Stage:
    return Stage(loss="logits", **{"steps": steps, "lr": 3e-3, "on_policy": 0.5} | changes)


# Which rows, and where a continuation starts


@pytest.mark.parametrize(
    ("scored", "begins"),
    [
        ("1111111111111111", 8),  # plain text
        ("0000000000000000", 8),
        ("0111111111111111", 8),  # the begin token is no prompt
        ("0000011111111111", 5),
        ("0000000000111111", 10),
        ("1110000001110011", 9),  # a second answer begins further away
        ("0001111111111111", 8),  # too near to the beginning
        ("0000000000000011", 8),
    ],
)
def test_the_student_begins_at_an_answer_near_the_middle(scored: str, begins: int) -> None:
    labels = torch.tensor([[5 if mark == "1" else -100 for mark in scored]])
    assert continuation_starts(labels).tolist() == [begins]


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.01])
def test_written_rows_are_spread_evenly(share: float) -> None:
    written = [is_continued(row, share) for row in range(1000)]
    assert sum(written) == pytest.approx(1000 * share, abs=1)
    gaps = [at for at, there in enumerate(written) if there]
    assert all(abs((b - a) - 1 / share) < 1 for a, b in itertools.pairwise(gaps))


# Sampling


def test_tokens_are_drawn_as_their_distribution_says() -> None:
    wanted = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(2)
    grid = (torch.arange(20_000) + 0.5) / 20_000
    counts = torch.bincount(_sample(wanted.expand(20_000, -1), grid), minlength=50) / 20_000
    torch.testing.assert_close(counts, wanted.softmax(0), rtol=0, atol=1.01 / 20_000)
    certain = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, -1)
    assert _sample(certain, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1]


@pytest.mark.parametrize("family", [*DENSE, "qwen3_moe"])
def test_sampling_with_a_cache_equals_sampling_without(family: str, make_model: MakeModel) -> None:
    """Sliding windows are shorter than the rows."""
    student = load_model(make_model(family))
    uniform = uniforms(3, [(1, n) for n in range(3)], 24)
    ids, labels = continue_rows(student, IDS, BEGINS, uniform, 512, [])
    expected = IDS.clone()
    with torch.no_grad():
        for row, begin in enumerate(BEGINS.tolist()):
            for at in range(begin, 24):
                expected[row, at] = _sample(
                    student(input_ids=expected[row : row + 1, :at]).logits[:, -1],
                    uniform[row : row + 1, at],
                )[0]
    assert torch.equal(ids, expected)
    inside = torch.arange(24) >= BEGINS.unsqueeze(1)
    assert torch.equal(labels, torch.where(inside, ids, -100))


def test_a_row_ends_with_an_end_token(make_model: MakeModel) -> None:
    student = load_model(make_model("llama"))
    uniform = uniforms(3, [(1, n) for n in range(3)], 24)
    endless, _ = continue_rows(student, IDS, BEGINS, uniform, 512, [])
    ends = endless[[0, 2], [15, 20]].tolist()
    ids, labels = continue_rows(student, IDS, BEGINS, uniform, 512, ends)
    for row, begin in enumerate(BEGINS.tolist()):
        stop = next((at for at in range(begin, 24) if int(endless[row, at]) in ends), 23) + 1
        assert torch.equal(ids[row], torch.cat([endless[row, :stop], IDS[row, stop:]]))
        assert torch.equal(labels[row, begin:stop], endless[row, begin:stop])
        assert set(labels[row, :begin].tolist() + labels[row, stop:].tolist()) == {-100}
    few, _ = continue_rows(student, IDS % 40, BEGINS, uniform, 40, [])
    assert int(few.max()) < 40, "tokens that the teacher lacks are not written"


def test_a_continuation_depends_only_on_the_number_of_its_row(make_model: MakeModel) -> None:
    student, teacher = load_model(make_model("llama", seed=1)), load_model(make_model("llama"))
    objective = OnPolicyDistillation(
        student, OnlineTeacher(teacher, 512), 1.0, 512, "js", Continuation(0.5, 7, 2, [0])
    )
    student.train()
    rows = IDS.repeat(2, 1)[:4]
    ids, labels = objective.replace_rows(rows, rows, range(6, 10))
    assert student.training
    assert [torch.equal(one, other) for one, other in zip(ids, rows, strict=True)] == [
        True,
        False,
        True,
        False,
    ]
    part, _ = objective.replace_rows(rows[2:], rows[2:], range(8, 10))
    assert torch.equal(part, ids[2:])
    other, _ = objective.replace_rows(rows, rows, range(4, 8))
    assert not torch.equal(other[1], ids[1])
    assert objective.loss_count(ids, labels) == 2 * 23 + int((labels[[1, 3]] != -100).sum())


@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
def test_the_divergence_is_that_of_what_was_written(kind: Any, make_model: MakeModel) -> None:
    student, teacher = load_model(make_model("llama", seed=1)), load_model(make_model("llama"))
    objective = OnPolicyDistillation(
        student, OnlineTeacher(teacher, 512), 1.0, 512, kind, Continuation(1.0, 7, 2, [])
    )
    ids, labels = objective.replace_rows(IDS, IDS, range(3))
    with torch.no_grad():
        log_p, log_q = (
            model(input_ids=ids).logits[:, 11:-1].log_softmax(-1).flatten(0, 1)
            for model in (teacher, student)
        )
        torch.testing.assert_close(
            objective(ids, labels), divergence(log_p, log_q, kind) / (3 * 12), rtol=1e-4, atol=1e-5
        )
    assert (labels[:, :12] == -100).all() and (labels[:, 12:] == ids[:, 12:]).all()


# The step


def test_a_student_learns_from_what_it_writes(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    result = distill(
        options(text_file, teacher, logits(25, on_policy=1.0, divergence="reverse", lr=1e-2)),
        student,
        tmp_path / "out",
        context,
    )
    curve = result.details["loss"]["logits"]
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])
    assert "100% of the rows of logits were continued by the student itself" in result.notes


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": {"r": 4}}, {"qat": {"bits": 4, "group_size": 64}}],
    ids=["all", "lora", "qat"],
)
def test_a_killed_run_writes_the_same(
    changes: dict[str, Any],
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    stages = (logits(3), logits(5, divergence="js"))
    asked = options(text_file, teacher, *stages, **changes)
    named = replace(context, depends_on={"this": 1})
    whole = distill(asked, student, tmp_path / "whole", named)
    with before_step(6, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, student, tmp_path / "out", named)
    again = distill(asked, student, tmp_path / "out", named)
    assert again.details == whole.details
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_parts_of_a_step_are_continued_as_the_whole(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Answers end early, so parts differ in tokens; recomputed layers keep no cache."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        "".join(
            json.dumps({"prompt": f"{i} boats?" * (i % 4), "completion": f"{i}"}) + "\n"
            for i in range(90)
        )
    )
    teacher, student = make_model("llama", **SMALL), make_model("llama", seed=1, **SMALL)
    seen: dict[str, list[Tensor]] = {}
    curves: dict[str, list[float]] = {}
    part = PreparedObjective._part
    for name, changes in (
        ("whole", {}),
        ("parts", {"accumulate": 4}),
        ("layers", {"checkpoint_layers": True}),
    ):
        into = seen.setdefault(name, [])
        with pytest.MonkeyPatch.context() as patch:

            def note(
                self: PreparedObjective, *args: Any, into: list[Tensor] = into
            ) -> tuple[Tensor, Tensor]:
                ids, labels = part(self, *args)
                into.append(torch.stack([ids, labels], 1))
                return ids, labels

            patch.setattr(PreparedObjective, "_part", note)
            asked = options(file, teacher, logits(4), data=f"jsonl:{file}", **changes)
            curves[name] = distill(asked, student, tmp_path / name, context).details["loss"][
                "logits"
            ]
    whole = torch.cat(seen["whole"])
    assert all(torch.equal(torch.cat(other), whole) for other in seen.values())
    assert curves["parts"] == pytest.approx(curves["whole"], rel=1e-5)
    assert curves["layers"] == pytest.approx(curves["whole"], rel=1e-5)


# Options


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ({"loss": "hidden"}, {}, "no place in the stage `hidden`"),
        ({"loss": "labels"}, {}, "no place in the stage `labels`"),
        (
            {"loss": "logits", "hard": 0.1},
            {},
            "`hard` would train on tokens that the student wrote",
        ),
        ({"loss": "logits"}, {"teacher_cache": {"path": "x"}}, "not what a student will write"),
    ],
)
def test_options_that_exclude_on_policy(
    stage: dict[str, Any], changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=message):
        DistillOptions(stages=({"steps": 1, "on_policy": 0.5, **stage},), **changes)
    file = tmp_path / "recipe.yaml"
    step = {"kind": "distill", "stages": [{"steps": 1, "on_policy": 0.5, **stage}], **changes}
    file.write_text(f"steps:\n  - {json.dumps(step)}\n")
    with pytest.raises(Exception, match=f"{file}:2: .*{message}"):
        load_recipe(file)


def test_on_policy_from_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    student, teacher = make_model("llama", seed=1, **SMALL), make_model("llama", **SMALL)
    what = (
        "distill",
        student,
        "--teacher",
        teacher,
        "--data",
        f"text:{text_file}",
        "--hidden-steps",
        0,
        "--logit-steps",
        2,
    )
    more = (
        "--on-policy",
        0.25,
        "--seq-len",
        16,
        "--batch-size",
        4,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    code, out, err = cli(*what, *more, "--json")
    assert code == 0, err
    assert (
        "25% of the rows of logits were continued by the student itself" in json.loads(out)["notes"]
    )
