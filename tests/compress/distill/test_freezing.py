"""Frozen parameters stay bit for bit the same in their stage, and are trained in the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.errors import UsageError
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {"num_hidden_layers": 2, "intermediate_size": 256}


def options(
    text_file: Path, *stages: Stage, teacher: Path | None = None, **changes: Any
) -> DistillOptions:
    settings = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 2,
        "bf16": False,
    }
    return DistillOptions(**settings | {"stages": stages} | changes)


def labels(*freeze: str, steps: int = 2) -> Stage:
    return Stage(loss="labels", steps=steps, freeze=freeze)


def same(one: Path, other: Path) -> set[str]:
    """Return the names of tensors that are equal in two checkpoints."""
    old, new = read_state(one), read_state(other)
    return {name for name in old if (old[name] == new[name]).all()}


def test_what_is_frozen_stays_and_the_rest_learns(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    distill(
        options(text_file, labels("model.embed_tokens*", "model.layers.0.*")),
        student,
        tmp_path / "out",
        context,
    )
    frozen = {
        name
        for name in read_state(student)
        if name.startswith(("model.embed_tokens", "model.layers.0."))
    }
    assert same(student, tmp_path / "out") == frozen


def test_a_frozen_head_that_is_the_embedding_freezes_both(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("qwen2", seed=1, **SMALL)
    distill(options(text_file, labels("lm_head*")), student, tmp_path / "out", context)
    assert same(student, tmp_path / "out") == {"model.embed_tokens.weight"}


@pytest.mark.parametrize("loss", ["hidden", "logits"])
def test_each_stage_freezes_its_own(
    loss: Any, make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The second stage trains what the first froze, with and without projections."""
    teacher, student = make_model("qwen3"), make_model("qwen3", seed=1, hidden_size=64, **SMALL)
    first = Stage(loss=loss, steps=2, freeze=("*.mlp.*",))
    distill(options(text_file, first, teacher=teacher), student, tmp_path / "one", context)
    distill(
        options(text_file, first, labels("*.self_attn.*"), teacher=teacher),
        student,
        tmp_path / "two",
        context,
    )
    mlp = {name for name in read_state(student) if ".mlp." in name}
    assert same(student, tmp_path / "one") - {"lm_head.weight"} == mlp
    assert same(tmp_path / "one", tmp_path / "two") == {
        name for name in read_state(student) if ".self_attn." in name
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (
            {"lora": {"r": 2}},
            {"model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.v_proj.weight"},
        ),
        ({"optimizer": "muon"}, None),
    ],
    ids=["lora", "muon"],
)
def test_other_ways_to_learn_freeze_too(
    changes: dict[str, Any],
    names: set[str] | None,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    distill(
        options(text_file, labels("model.layers.0.*"), **changes),
        student,
        tmp_path / "out",
        context,
    )
    every = set(read_state(student))
    changed = names or {name for name in every if not name.startswith("model.layers.0.")}
    assert same(student, tmp_path / "out") == every - changed


def test_a_grid_is_frozen_by_the_names_of_its_weights(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """The integers of frozen weights are those of rounding to nearest."""
    student = make_model("llama", seed=1, **SMALL)
    qat = {"bits": 4, "group_size": 64}
    integers: list[dict[str, Tensor]] = []
    for name, stage in (
        ("learnt", labels(steps=4)),
        ("frozen", labels("*.self_attn.q_proj.weight", steps=4)),
        ("start", labels("*_proj.*")),
    ):
        distill(options(text_file, stage, qat=qat), student, tmp_path / name, context)
        integers.append(
            {k: v for k, v in read_state(tmp_path / name).items() if k.endswith("q_proj.qweight")}
        )
    learnt, frozen, start = integers
    assert all((frozen[name] == start[name]).all() for name in start)
    assert any((learnt[name] != start[name]).any() for name in start)


def test_patterns_that_make_no_sense_are_refused(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    with pytest.raises(
        UsageError, match=r"freeze `embed_tokens\*`: no parameter of the student has such a name"
    ) as caught:
        distill(
            options(text_file, labels(), labels("embed_tokens*")),
            student,
            tmp_path / "out",
            context,
        )
    assert "model.embed_tokens.weight, model.layers.*.self_attn.q_proj.weight" in caught.value.hint
    with pytest.raises(
        UsageError, match=r"freeze model.\*, lm_head\*: nothing of the student is left to train"
    ):
        distill(
            options(text_file, labels("model.*", "lm_head*")), student, tmp_path / "out", context
        )
    assert not list(tmp_path.iterdir())


def test_the_command_line_freezes(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    student = make_model("llama", seed=1, **SMALL)
    out = tmp_path / "out"
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
    code, _, err = cli(
        *what, "--freeze", "lm_head*", "--freeze", "model.norm*", "--device", "cpu", "--out", out
    )
    assert code == 0, err
    assert same(student, out) == {"lm_head.weight", "model.norm.weight"}
