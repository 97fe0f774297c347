"""Quantization-aware learning: what is written is what was learnt with, bit for bit, and it starts where a packed checkpoint stands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import DENSE
from torch import Tensor, nn

import edgewright.compress.distill.runner as distill_runner
from edgewright.checkpoints.files import read_config, read_state
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill.fake_quant import fake_quantize, grid_range, into_cells, pack
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.qat import QuantizedStudent, starting_integers
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.trainer import train
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.prune.two_four import is_two_four
from edgewright.compress.quantize.gptq import rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
from edgewright.models import weight_of
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
SMALL = {
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}


def small(make: MakeModel, family: str = "llama", **config: Any) -> Path:
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    )
    return make(family, **SMALL | layers | config)


def weights(seed: int = 0) -> Tensor:
    return torch.randn(6, 128, generator=torch.Generator().manual_seed(seed)) * 0.1


# The tensor functions


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
def test_fake_quantized_is_what_the_packed_integers_stand_for(bits: int, sym: bool) -> None:
    start, other = rtn(weights(), Scheme(bits, 32, sym)), weights(1)
    fake = fake_quantize(other, start.scales, start.zeros.float(), bits)
    assert torch.equal(fake, pack(other, start).dequantize())
    assert torch.equal(pack(weights(), start).integers, start.integers)
    assert not torch.equal(fake, other)
    assert float((fake - other).abs().max()) <= float(start.scales.max()) * 2**bits


def test_the_gradient_goes_straight_through() -> None:
    weight, start = weights().requires_grad_(), rtn(weights(), Scheme(4, 64))
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(3))
    fake = fake_quantize(weight, start.scales, start.zeros.float(), 4)
    (x @ fake.t()).square().sum().backward()
    rounded = fake.detach().clone().requires_grad_()
    (x @ rounded.t()).square().sum().backward()
    assert weight.grad is not None
    assert rounded.grad is not None
    assert torch.equal(weight.grad, rounded.grad)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("centred", [0.0, 0.5, 1.0])
def test_weights_are_moved_into_the_cells_of_other_integers(
    bits: int, sym: bool, centred: float
) -> None:
    """As GPTQ's integers are: not always the nearest ones."""
    weight, plain = weights(), rtn(weights(), Scheme(bits, 32, sym))
    shifted = (
        plain.integers.int()
        + torch.randint(-1, 2, (6, 128), generator=torch.Generator().manual_seed(4))
    ).clamp(0, 2**bits - 1)
    start = replace(plain, integers=shifted.to(torch.uint8))
    moved = into_cells(weight, start, centred)
    assert torch.equal(pack(moved, start).integers, start.integers)
    if centred == 0.0:  # what is in its cell stays where it is, but for the margin at the border
        inside = (plain.integers == start.integers) & (
            (weight - start.dequantize()).abs() < 0.49 * start.scales.repeat_interleave(32, 1)
        )
        assert torch.equal(moved[inside], weight[inside])
        assert inside.any()
    if centred == 1.0:
        assert torch.equal(moved, start.dequantize())


def test_the_range_is_where_rounding_does_not_clip() -> None:
    start = rtn(weights(), Scheme(4, 128))
    low, high = grid_range(start.scales, start.zeros.float(), 4)
    ends = torch.cat([low, high], 1).repeat_interleave(64, 1)
    fake = fake_quantize(ends, start.scales, start.zeros.float(), 4)
    assert float((fake - ends).abs().max()) <= float(start.scales.max()) * 0.5001
    beyond = fake_quantize(ends * 1.5, start.scales, start.zeros.float(), 4)
    assert torch.equal(beyond, start.scales * torch.tensor([-8.0, 7.0]).repeat_interleave(64))


# The student


def test_a_student_computes_with_rounded_weights_and_keeps_its_own(make_model: MakeModel) -> None:
    folder = small(make_model)
    student, plain = load_model(folder), load_model(folder)
    model = distill_runner.read_architecture(folder)
    options = DistillOptions(qat={"bits": 4, "group_size": 64}).qat
    assert options is not None
    start = starting_integers(options, student, model, None)
    ids = torch.arange(24).view(2, 12) * 5 % 512
    low_bit = QuantizedStudent(student, model, start)
    with torch.no_grad():
        fake = student(ids).logits
        for name in start:
            linear = plain.get_submodule(name)
            weight_of(linear).copy_(rtn(weight_of(linear), Scheme(4, 64)).dequantize())
        assert torch.equal(fake, plain(ids).logits)
    names = set(student.state_dict())
    packed = low_bit.packed()
    assert names - set(student.state_dict()) == {
        f"{name}.parametrizations.weight.original" for name in start
    }
    assert all(torch.equal(packed[name].integers, start[name].integers) for name in start)
    assert set(student.state_dict()) == set(plain.state_dict())


# The step


def options(
    teacher: Path | None, text_file: Path, steps: int = 12, **changes: Any
) -> DistillOptions:
    loss = "logits" if teacher else "labels"
    settings: dict[str, Any] = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "stages": (Stage(loss=loss, steps=steps, lr=3e-3),),
        "bf16": False,
        "qat": {"bits": 4, "group_size": 64},
    }
    return DistillOptions(**settings | changes)


@pytest.fixture
def last_student(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the student of the last training computes with and answers, looked at when training has just ended."""
    seen: dict[str, Any] = {}
    ids = torch.arange(30).view(2, 15) * 7 % 512

    def watched(objective: Any, *args: Any) -> list[float]:
        losses = train(objective, *args)
        student = objective.student
        linears = {
            n: m
            for n, m in student.named_modules()
            if isinstance(m, nn.Linear) and ".layers." in f".{n}" and n != "lm_head"
        }
        with torch.no_grad():
            seen.update(
                weights={n: m.weight.clone() for n, m in linears.items()},
                ids=ids,
                logits=student(ids).logits,
            )
        return losses

    monkeypatch.setattr(distill_runner, "train", watched)
    return seen


@pytest.mark.parametrize("family", DENSE)
def test_what_is_written_is_what_was_learnt_with(
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
    assert any("14 linear layers learnt in 4 bit" in note for note in result.notes)


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
    """Rounded once, a model is some way off its own logits; learning on the grid brings it nearer."""
    source, grid = small(make_model), {"bits": 4, "group_size": -1}
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
    """Named as the scales' source or the student itself; after a step too small to matter the integers are still its own."""
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
    assert any("integers are other than at the start" in note for note in learnt.notes)


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
    """A learning rate that throws weights far out: within one step of the range they still are, so that they can come back."""
    source, seen = small(make_model), []

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
        patch.setattr(distill_runner, "train", watched)
        distill(
            options(None, text_file, steps=4, stages=(Stage(loss="labels", steps=4, lr=0.3),)),
            source,
            tmp_path / "out",
            context,
        )
    assert seen == [True] * 14


# Recipes and the command line


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


def test_by_the_command_line(
    cli: Callable[..., tuple[int, str, str]],
    packed: tuple[Path, Path],
    text_file: Path,
    tmp_path: Path,
) -> None:
    common = [
        packed[0],
        "--teacher",
        packed[0],
        "--data",
        f"text:{text_file}",
        "--hidden-steps",
        0,
        "--logit-steps",
        3,
        "--seq-len",
        24,
    ]
    learn = [
        *common,
        "--qat",
        4,
        "--qat-group-size",
        64,
        "--scales-from",
        packed[1],
        "--out",
        tmp_path / "out",
        "--json",
    ]
    code, out, _ = cli("distill", *learn)
    assert code == 0
    assert not json.loads(out)["reused"]
    assert read_config(tmp_path / "out")["quantization_config"]["group_size"] == 64
    told = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert told["options"]["qat"] == {
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
