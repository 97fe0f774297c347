"""Quantization-aware training: the output has exactly the weights that were trained with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import DENSE
from qat_runs import MakeModel, options, small, watch_student

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill import stages
from edgewright.compress.distill.fake_quant import grid_range
from edgewright.compress.distill.options import Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.trainer import train
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.prune.two_four import is_two_four
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext


@pytest.fixture
def last_student(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return watch_student(monkeypatch)


@pytest.mark.parametrize("family", DENSE)
def test_the_output_has_the_weights_of_the_training(
    family: str,
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    last_student: dict[str, Any],
) -> None:
    teacher = small(make_model, family)
    result = distill(options(teacher, text_file), teacher, tmp_path / "out", context)
    stored, loaded = read_state(tmp_path / "out"), load_model(tmp_path / "out")
    assert len(last_student["weights"]) == 14
    for name, weight in last_student["weights"].items():
        parts = part_of(stored, name)
        assert parts.keys() - {"bias"} == {"qweight", "qzeros", "scales", "g_idx"}
        assert torch.equal(weight[:6], dequantize_gptq(parts, 4, outputs=6))
        assert torch.equal(weight, loaded.state_dict()[f"{name}.weight"])
    with torch.no_grad():
        assert torch.equal(loaded(last_student["ids"]).logits, last_student["logits"])
    block = read_config(tmp_path / "out")["quantization_config"]
    assert (
        block["quant_method"],
        block["bits"],
        block["group_size"],
        block["sym"],
        block["desc_act"],
    ) == ("gptq", 4, 64, True, False)
    assert any("14 linear layers trained in 4 bit" in note for note in result.notes)


@pytest.mark.parametrize(
    ("grid", "changes"),
    [
        ({"bits": 8, "group_size": 32}, {"optimizer": "muon"}),
        ({"bits": 4, "group_size": -1, "sym": False}, {"optimizer": "muon", "bf16": True}),
        ({"bits": 8, "group_size": 128, "sym": False}, {"bf16": True}),
    ],
)
def test_every_grid_and_optimizer(
    grid: dict[str, Any],
    changes: dict[str, Any],
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
    last_student: dict[str, Any],
) -> None:
    source = small(make_model, "qwen2")
    distill(options(source, text_file, qat=grid, **changes), source, tmp_path / "out", context)
    loaded = load_model(tmp_path / "out").state_dict()
    assert last_student["weights"]
    assert all(
        torch.equal(weight, loaded[f"{name}.weight"])
        for name, weight in last_student["weights"].items()
    )
    start = rtn(
        read_state(source)["model.layers.0.mlp.up_proj.weight"],
        Scheme(**{"group_size": 128, "sym": True} | grid),
    )
    assert not torch.equal(
        last_student["weights"]["model.layers.0.mlp.up_proj"], start.dequantize()
    )


def test_it_learns(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """Training on the grid brings a rounded model nearer to its logits before rounding."""
    source = small(make_model)
    grid = {"bits": 4, "group_size": -1}
    quantize(QuantizeOptions(method="rtn", **grid), source, tmp_path / "rounded", context)
    distill(
        options(source, text_file, qat=grid, stages=(Stage(loss="logits", steps=60, lr=2e-4),)),
        source,
        tmp_path / "out",
        context,
    )
    rows = torch.stack([row[0] for row in context.calibration.rows(source, 0)])
    with torch.no_grad():
        expected, rounded, learnt = (
            load_model(p)(rows).logits.log_softmax(-1)
            for p in (source, tmp_path / "rounded", tmp_path / "out")
        )
    kl = [
        float((expected.exp() * (expected - other)).sum(-1).mean()) for other in (rounded, learnt)
    ]
    assert kl[1] < 0.7 * kl[0]


def test_what_does_not_fit_is_refused_before_anything_is_made(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    odd = small(make_model, intermediate_size=192)
    with pytest.raises(
        Refused, match=r"group size 128 does not divide the width of mlp\.down_proj \(192 inputs\)"
    ) as caught:
        distill(options(None, text_file, qat={"group_size": 128}), odd, tmp_path / "out", context)
    assert "q_proj" not in str(caught.value)
    with pytest.raises(
        Refused,
        match=r"4-bit integers are stored 8 at a time, which does not divide .*mlp\.down_proj",
    ):
        distill(
            options(None, text_file, qat={"group_size": -1}),
            small(make_model, intermediate_size=100),
            tmp_path / "out",
            context,
        )
    with pytest.raises(UsageError, match="group size 48"):
        distill(options(None, text_file, qat={"group_size": 48}), odd, tmp_path / "out", context)
    with pytest.raises(Refused, match="mixture of experts"):
        distill(options(None, text_file), make_model("mixtral"), tmp_path / "out", context)
    assert not list(tmp_path.iterdir())


def test_adapters_and_rounds_are_refused(text_file: Path) -> None:
    with pytest.raises(ValueError, match="rounding the merged weights would undo"):
        options(None, text_file, lora={})
    with pytest.raises(ValueError, match="cannot be pruned in the next round"):
        distill_recipe({"kind": "iterate", "prune": {"ffn": 0.5}, "recover": {"qat": {}}})


def test_a_sparse_student_stays_sparse(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    prune(PruneOptions(sparsity="2:4"), small(make_model), tmp_path / "sparse", context)
    distill(options(None, text_file), tmp_path / "sparse", tmp_path / "out", context)
    before, after = (
        load_model(tmp_path / "sparse").state_dict(),
        load_model(tmp_path / "out").state_dict(),
    )
    linears = [key for key in before if ".layers." in key and before[key].ndim == 2]
    assert len(linears) == 14
    assert all(
        is_two_four(after[key]) and not bool(after[key][before[key] == 0].any()) for key in linears
    )


def test_weights_stay_in_the_range_of_their_grid(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """A large learning rate throws weights far out; they are brought back to the edge."""
    source = small(make_model)
    seen = []

    def watched(objective: Any, *args: Any) -> list[float]:
        losses = train(objective, *args)
        for linear in (m for m in objective.student.modules() if hasattr(m, "parametrizations")):
            grid = linear.parametrizations.weight[0]
            low, high = grid_range(grid.scales, grid.zeros, grid.start.bits)
            weight = linear.parametrizations.weight.original.detach().view(*low.shape, -1)
            seen.append(
                bool((weight >= low.unsqueeze(-1)).all() and (weight <= high.unsqueeze(-1)).all())
            )
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "train", watched)
        distill(
            options(None, text_file, steps=4, stages=(Stage(loss="labels", steps=4, lr=0.3),)),
            source,
            tmp_path / "out",
            context,
        )
    assert seen == [True] * 14


# In a recipe


def distill_recipe(*steps: dict[str, Any], **settings: Any) -> Recipe:
    return Recipe.model_validate(
        {"model": "builtin:tiny-reasoner", "steps": list(steps), **settings}
    )


def test_a_plan_knows_the_precision() -> None:
    learn = {"kind": "distill", "teacher": "baseline", "qat": {"bits": 4, "group_size": 64}}
    plain = {**learn, "qat": None, "name": "plain"}
    rows = {
        row["step"]: row
        for row in plan_recipe(
            distill_recipe(learn, {**plain, "from": "baseline"}, target="jetson-orin-nano-8gb")
        )
    }
    assert rows["distill"]["precision"] == "int4"
    assert rows["plain"]["precision"] == "bf16"
    assert rows["distill"]["weight_bytes"] < 0.5 * rows["plain"]["weight_bytes"]
    assert rows["distill"]["ram_bytes"] > rows["plain"]["ram_bytes"]
    with pytest.raises(UsageError, match="group size 48"):
        plan_recipe(distill_recipe({**learn, "qat": {"bits": 4, "group_size": 48}}))
