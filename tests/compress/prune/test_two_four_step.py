"""2:4 sparsity of a checkpoint, and a recovery that leaves the zeros alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from prune_helpers import counted
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.lora import LoraOptions
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.two_four import is_two_four, magnitude
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def matrices(folder: Path) -> dict[str, Tensor]:
    """The weights of all linear layers of the decoder layers, by name."""
    config, state = read_config(folder), read_state(folder)
    return {f"{name}.weight": state[f"{name}.weight"] for name in architecture(config).linears()}


@pytest.mark.parametrize("family", DENSE)
def test_every_linear_layer_is_sparse_and_nothing_else(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, out = make_model(family, dtype="bfloat16"), tmp_path / "out"
    result = prune(PruneOptions(sparsity="2:4"), source, out, context)
    before, after, sparse = read_state(source), read_state(out), matrices(out)
    assert len(sparse) == 3 * 7
    for name, weight in sparse.items():
        assert (counted(weight) >= 2).all(), name
        assert 0.45 < float((weight == 0).float().mean()) < 0.55
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    assert all(torch.equal(after[k], before[k]) for k in after.keys() - sparse.keys())
    assert all(e["error"] < e["magnitude_error"] for e in result.details["sparsity"].values())
    provenance = json.loads((out / "edgewright.json").read_text())
    assert (provenance["step"], provenance["sparsity"], provenance["sparsity_method"]) == (
        "prune",
        "2:4",
        "sparsegpt",
    )
    assert {p.name for p in tmp_path.iterdir()} == {"out"}


def test_sparsegpt_is_nearer_to_the_model_than_magnitude(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, many = (
        make_model("qwen2"),
        replace(context, calibration=replace(context.calibration, samples=24)),
    )
    for method in ("sparsegpt", "magnitude"):
        prune(PruneOptions(sparsity="2:4", sparsity_method=method), source, tmp_path / method, many)
    rows = torch.stack([row[0] for row in many.calibration.rows(source, 0)])
    with torch.no_grad():
        whole, near, far = (
            load_model(p)(input_ids=rows).logits
            for p in (source, tmp_path / "sparsegpt", tmp_path / "magnitude")
        )
    assert (near - whole).norm() < 0.9 * (far - whole).norm()
    old, plain = matrices(source), matrices(tmp_path / "magnitude")
    assert all(torch.equal(plain[name], magnitude(old[name])) for name in plain)


def test_after_a_cut(make_model: MakeModel, context: StepContext, tmp_path: Path) -> None:
    cut = {"heads": 0.25, "ffn": 0.5, "layers": 1}
    result = prune(
        PruneOptions(**cut, sparsity="2:4"), make_model("llama"), tmp_path / "out", context
    )
    config = read_config(tmp_path / "out")
    assert (
        config["num_attention_heads"],
        config["intermediate_size"],
        config["num_hidden_layers"],
    ) == (6, 256, 2)
    assert all((counted(weight) >= 2).all() for weight in matrices(tmp_path / "out").values())
    provenance = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert (provenance["sparsity"], provenance["kept_layers"]) == (
        "2:4",
        result.details["kept_layers"],
    )
    assert len(result.details["sparsity"]) == 2 * 7
    assert result.notes[0].startswith("query heads 8 -> 6")
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    again = prune(
        PruneOptions(ffn=0.5, compensate=False), tmp_path / "out", tmp_path / "again", context
    )
    assert "give --sparsity 2:4" in again.notes[-1]
    assert "sparsity" not in json.loads((tmp_path / "again" / "edgewright.json").read_text())


def test_widths_that_four_does_not_divide(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"down_proj \(126 inputs\)"):
        prune(
            PruneOptions(sparsity="2:4"),
            make_model("llama", intermediate_size=126),
            tmp_path / "out",
            context,
        )
    assert not list(tmp_path.iterdir())


# Recovery


@pytest.fixture(scope="module")
def sparse_model(
    make_model: MakeModel, context: StepContext, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("sparse") / "sparse"
    prune(
        PruneOptions(ffn=0.5, sparsity="2:4"), make_model("qwen3", dtype="bfloat16"), out, context
    )
    return out


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("taught", [False, True])
def test_recovery_keeps_the_zeros(
    optimizer: Any,
    taught: bool,
    sparse_model: Path,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    stages = (
        (Stage(loss="hidden", steps=6, lr=3e-3), Stage(loss="logits", steps=6, lr=3e-3))
        if taught
        else (Stage(loss="labels", steps=12),)
    )
    teacher = str(make_model("qwen3")) if taught else None
    asked = DistillOptions(
        teacher=teacher,
        data=f"text:{text_file}",
        seq_len=24,
        batch_size=4,
        stages=stages,
        optimizer=optimizer,
        bf16=False,
    )
    result = distill(asked, sparse_model, tmp_path / "out", context)
    before, after = matrices(sparse_model), matrices(tmp_path / "out")
    for name, weight in after.items():
        assert (counted(weight) >= 2).all(), name
        assert not weight[before[name] == 0].any()
        assert not torch.equal(weight, before[name])
    assert json.loads((tmp_path / "out" / "edgewright.json").read_text())["sparsity"] == "2:4"
    assert any("stays so" in note for note in result.notes)
    distill(
        DistillOptions(**asked.model_dump() | {"stages": stages[:1]}),
        tmp_path / "out",
        tmp_path / "twice",
        context,
    )
    assert all((counted(weight) >= 2).all() for weight in matrices(tmp_path / "twice").values())


def labels_only(text_file: Path, **changes: Any) -> DistillOptions:
    stages = (Stage(loss="labels", steps=3),)
    return DistillOptions(
        teacher=None, data=f"text:{text_file}", seq_len=24, batch_size=2, stages=stages, **changes
    )


def test_a_student_that_is_made_sparse_stays_so(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    student = {"from": str(make_model("llama")), "sparsity": "2:4", "sparsity_method": "magnitude"}
    distill(labels_only(text_file, student=student), make_model("llama"), tmp_path / "out", context)
    assert all((counted(weight) >= 2).all() for weight in matrices(tmp_path / "out").values())
    provenance = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert (provenance["sparsity"], provenance["student_cut"]) == ("2:4", None)


def test_adapters_on_a_sparse_student_are_refused(
    sparse_model: Path, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="would fill its zeros") as caught:
        distill(labels_only(text_file, lora=LoraOptions()), sparse_model, tmp_path / "out", context)
    assert "leave --lora out" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_sparse_checkpoints_of_others_are_recognised(
    sparse_model: Path, copy_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    foreign = copy_model("qwen3")
    state = read_state(foreign) | {
        name: magnitude(weight) for name, weight in matrices(foreign).items()
    }
    save_file(state, foreign / "model.safetensors", metadata={"format": "pt"})
    assert not (foreign / "edgewright.json").exists()
    distill(labels_only(text_file), foreign, tmp_path / "out", context)
    assert all((counted(weight) >= 2).all() for weight in matrices(tmp_path / "out").values())
    state[next(iter(matrices(foreign)))][0, :4] = 1.0
    save_file(state, foreign / "model.safetensors", metadata={"format": "pt"})
    distill(labels_only(text_file), foreign, tmp_path / "dense", context)
    assert not any(is_two_four(weight) for weight in matrices(tmp_path / "dense").values())
    (foreign / "edgewright.json").write_text('{"sparsity": "2:4"}')
    with pytest.raises(UsageError, match=r"says 2:4 sparse, and model\.layers\.0"):
        distill(labels_only(text_file), foreign, tmp_path / "never", context)


def test_quantizing_says_that_the_pattern_may_go(
    sparse_model: Path, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    result = quantize(QuantizeOptions(method="rtn"), sparse_model, tmp_path / "out", context)
    assert any("counts as dense" in note for note in result.notes)
    result = quantize(
        QuantizeOptions(method="rtn"), make_model("llama"), tmp_path / "dense", context
    )
    assert not any("counts as dense" in note for note in result.notes)
