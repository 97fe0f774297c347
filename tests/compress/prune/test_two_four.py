"""2:4 sparsity: the pattern, SparseGPT against its definition and its baseline, and a recovery that leaves the zeros alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.files import read_config, read_state
from edgewright.checkpoints.loading import load_model
from edgewright.compress.calibration.hessian import output_error
from edgewright.compress.distill.lora import LoraOptions
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.prune import two_four as sparsity
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.two_four import is_two_four, magnitude, sparsegpt, two_four_mask
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(width: int, tokens: int = 512) -> Tensor:
    """A Hessian of inputs that go together, as those of a language model do."""
    x = random(tokens, width // 4, seed=1) @ random(width // 4, width, seed=2) + 0.3 * random(
        tokens, width, seed=3
    )
    return x.T @ x


def matrices(folder: Path) -> dict[str, Tensor]:
    """The weights of all linear layers of the decoder layers, by name."""
    config, state = read_config(folder), read_state(folder)
    return {f"{name}.weight": state[f"{name}.weight"] for name in architecture(config).linears()}


def counted(weight: Tensor) -> Tensor:
    """Zeros in every four consecutive inputs, without the code under test."""
    rows, width = weight.shape
    return torch.tensor(
        [
            [int((weight[r, c : c + 4] == 0).sum()) for c in range(0, width, 4)]
            for r in range(0, rows, 17)
        ]
    )


# The mathematics


def test_mask_keeps_the_two_best_of_four() -> None:
    scores = torch.tensor([[1.0, 4, 3, 2, 9, 9.5, 0, 8], [0, 0, 0, 0, -1, -2, -3, -4]])
    mask = two_four_mask(scores)
    assert mask[0].tolist() == [False, True, True, False, True, True, False, False]
    assert mask[1, 4:].tolist() == [True, True, False, False]
    assert mask.view(2, 2, 4).sum(-1).tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("row", "sparse"),
    [
        ([0, 0, 1, 1], True),
        ([0, 0, 0, 1], True),
        ([0] * 4, True),
        ([0, 1, 1, 1], False),
        ([1, 1, 0, 0, 0, 1, 1, 1], False),
        ([1, 0], False),
    ],
)
def test_pattern(row: list[int], sparse: bool) -> None:
    assert is_two_four(torch.tensor([row], dtype=torch.float32)) == sparse


def test_two_of_a_column_do_not_count() -> None:
    assert not is_two_four(torch.tensor([[1.0] * 4, [0.0] * 4, [1.0] * 4, [0.0] * 4]))


def test_uncorrelated_inputs_make_it_magnitude() -> None:
    weight = random(12, 64)
    sparse, damp = sparsegpt(weight, torch.eye(64))
    torch.testing.assert_close(sparse, magnitude(weight))
    assert damp == 0.01


def by_the_book(weight: Tensor, hessian: Tensor) -> Tensor:
    """The optimal brain surgeon, a column after the other, with the inverse Hessian updated by elimination and not by Cholesky."""
    weight, inverse = (
        weight.double().clone(),
        torch.linalg.inv(
            hessian.double() + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
        ),
    )
    mask = torch.ones_like(weight, dtype=torch.bool)
    for c in range(weight.shape[1]):
        if c % 4 == 0:
            ahead, costs = inverse.clone(), []
            for j in range(c, c + 4):
                costs.append(weight[:, j] ** 2 / ahead[j, j])
                ahead = ahead - torch.outer(ahead[:, j], ahead[j]) / ahead[j, j]
            order = torch.stack(costs, 1).argsort(1, descending=True)
            mask[:, c : c + 4] = False
            mask[:, c : c + 4].scatter_(1, order[:, :2], value=True)
        gone = torch.where(mask[:, c], 0.0, weight[:, c])
        weight[:, c:] -= torch.outer(gone / inverse[c, c], inverse[c, c:])
        inverse = inverse - torch.outer(inverse[:, c], inverse[c]) / inverse[c, c]
    return (weight * mask).float()


@pytest.mark.parametrize("block", [4, 16, 128])
def test_sparsegpt_is_the_brain_surgeon_column_by_column(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparsity, "BLOCK", block)
    weight, hessian = random(10, 48), correlated(48)
    sparse, _ = sparsegpt(weight, hessian)
    torch.testing.assert_close(sparse, by_the_book(weight, hessian), rtol=1e-3, atol=1e-4)
    assert is_two_four(sparse)


@pytest.mark.parametrize("width", [64, 260])
def test_sparsegpt_beats_magnitude(width: int) -> None:
    weight, hessian = random(32, width), correlated(width)
    sparse, _ = sparsegpt(weight, hessian)
    assert output_error(weight, sparse, hessian) < 0.6 * output_error(
        weight, magnitude(weight), hessian
    )
    assert (counted(sparse) == 2).all()


def test_inputs_never_seen_do_no_harm() -> None:
    weight, hessian = random(8, 32), correlated(32)
    hessian[5], hessian[:, 5] = 0, 0
    sparse, _ = sparsegpt(weight, hessian)
    assert torch.isfinite(sparse).all()
    assert bool(((sparse[:, 5] == 0) | (sparse[:, 5] == weight[:, 5])).all())
    assert torch.equal(sparsegpt(weight, torch.zeros(32, 32))[0], magnitude(weight))
    assert sparsegpt(weight, torch.full((32, 32), float("nan")))[1] is None


# The step


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
    told = json.loads((out / "edgewright.json").read_text())
    assert (told["step"], told["sparsity"], told["sparsity_method"]) == (
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
    told = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert (told["sparsity"], told["kept_layers"]) == ("2:4", result.details["kept_layers"])
    assert len(result.details["sparsity"]) == 2 * 7
    assert result.notes[0].startswith("query heads 8 -> 6")
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    again = prune(
        PruneOptions(ffn=0.5, compensate=False), tmp_path / "out", tmp_path / "again", context
    )
    assert "ask for sparsity again" in again.notes[-1]
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
    told = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert (told["sparsity"], told["student_cut"]) == ("2:4", None)


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
