"""Quantization-aware training that starts from a packed checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shlex import split
from typing import Any

import pytest
import torch
from qat_runs import MakeModel, options, small, watch_student

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.options import Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import UsageError
from edgewright.steps.context import StepContext


@pytest.fixture
def last_student(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return watch_student(monkeypatch)


@pytest.fixture(scope="module")
def packed(
    make_model: MakeModel, context: StepContext, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model in bfloat16 and the same packed by GPTQ."""
    source = small(make_model, "qwen2", dtype="bfloat16")
    out = tmp_path_factory.mktemp("packed") / "int4"
    quantize(QuantizeOptions(group_size=64), source, out, context)
    return source, out


@pytest.mark.parametrize("own", [True, False])
def test_it_starts_at_a_packed_checkpoint(
    own: bool,
    packed: tuple[Path, Path],
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    last_student: dict[str, Any],
) -> None:
    """As `scales_from` or as the student: a step too small to matter keeps the integers."""
    source, int4 = packed
    grid = {"bits": 4, "group_size": 64} | ({} if own else {"scales_from": str(int4)})
    still = (Stage(loss="labels", steps=1, lr=1e-9),)
    distill(
        options(None, text_file, qat=grid, stages=still),
        int4 if own else source,
        tmp_path / "out",
        context,
    )
    before, after = read_state(int4), read_state(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(
        torch.equal(before[key], after[key])
        for key in before
        if key.rpartition(".")[2] in ("qweight", "qzeros", "scales")
    )
    assert len(last_student["weights"]) == 14
    learnt = distill(
        options(None, text_file, qat=grid), int4 if own else source, tmp_path / "learnt", context
    )
    after = read_state(tmp_path / "learnt")
    assert all(
        torch.equal(before[key], after[key])
        for key in before
        if key.endswith((".scales", ".qzeros"))
    )
    assert not all(
        torch.equal(before[key], after[key]) for key in before if key.endswith(".qweight")
    )
    assert any("integers changed" in note for note in learnt.notes)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"group_size": 128}, "another grid than asked for: 4 bit, group 64, symmetric"),
        ({"group_size": 64, "bits": 8}, "another grid than asked for: 4 bit, group 64"),
        ({"group_size": 64, "sym": False}, "another grid than asked for"),
    ],
)
def test_another_grid_is_refused(
    grid: dict[str, Any],
    message: str,
    packed: tuple[Path, Path],
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=message):
        distill(
            options(None, text_file, qat={**grid, "scales_from": str(packed[1])}),
            packed[0],
            tmp_path / "out",
            context,
        )
    assert not list(tmp_path.iterdir())


def test_scales_of_another_model_are_refused(
    packed: tuple[Path, Path],
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    grid = {"bits": 4, "group_size": 64}
    with pytest.raises(UsageError, match="is not the student's"):
        other = small(make_model, "qwen2", seed=5, dtype="bfloat16")
        distill(
            options(None, text_file, qat={**grid, "scales_from": str(packed[1])}),
            other,
            tmp_path / "out",
            context,
        )
    with pytest.raises(UsageError, match="not a packed checkpoint"):
        distill(
            options(None, text_file, qat={**grid, "scales_from": str(packed[0])}),
            packed[0],
            tmp_path / "out",
            context,
        )
    with pytest.raises(UsageError, match=r"is \[256, 128\], the student's \[512, 128\]"):
        wide = small(make_model, "qwen2", dtype="bfloat16", intermediate_size=512)
        distill(
            options(None, text_file, qat={**grid, "scales_from": str(packed[1])}),
            wide,
            tmp_path / "out",
            context,
        )
    assert not list(tmp_path.iterdir())


def test_by_the_command_line(
    cli: Callable[..., tuple[int, str, str]],
    packed: tuple[Path, Path],
    text_file: Path,
    tmp_path: Path,
) -> None:
    common = [packed[0], "--teacher", packed[0], "--data", f"text:{text_file}"]
    common += split("--hidden-steps 0 --logit-steps 3 --seq-len 24")
    grid = ["--qat", 4, "--qat-group-size", 64, "--scales-from", packed[1]]
    learn = [*common, *grid, "--out", tmp_path / "out", "--json"]
    code, out, _ = cli("distill", *learn)
    assert code == 0
    assert not json.loads(out)["reused"]
    assert read_config(tmp_path / "out")["quantization_config"]["group_size"] == 64
    written = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert written["options"]["qat"] == {
        "bits": 4,
        "group_size": 64,
        "sym": True,
        "scales_from": str(packed[1]),
    }
    assert json.loads(cli("distill", *learn)[1])["reused"]
    code, _, err = cli("distill", *common, "--scales-from", packed[1], "--out", tmp_path / "no")
    assert code == 2
    assert "--scales-from needs --qat" in err
    code, _, err = cli("distill", *common, "--qat", 5, "--out", tmp_path / "no")
    assert code == 2
    assert "--qat 5: use 2, 4 or 8" in err
    code, _, err = cli("distill", *common, "--qat", 4, "--lora", 8, "--out", tmp_path / "no")
    assert code == 2
    assert "exclude each other" in err
    assert not (tmp_path / "no").exists()
