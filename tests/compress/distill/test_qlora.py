"""QLoRA: adapters on a packed student, whose output is dense with the adapters merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from interruptions import before_step, interrupt
from torch import Tensor, nn

from edgewright.checkpoints.config import read_architecture, read_config
from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import dense_state, load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.checkpoints.writer import write_checkpoint
from edgewright.compress.distill.lora import LoraOptions, lora_adapters
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.packed_base import PackedBase, load_packed
from edgewright.compress.distill.runner import distill
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused, UsageError
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
LORA = {"r": 4, "targets": ("q_proj", "down_proj")}
IDS = torch.arange(48).view(2, 24) * 7 % 512


def small(make: MakeModel, family: str = "llama", **config: Any) -> Path:
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    )
    return make(family, **SMALL | layers | config)


def packed(
    make: MakeModel,
    context: StepContext,
    out: Path,
    family: str = "llama",
    dtype: str = "float32",
    **changes: Any,
) -> Path:
    settings = {"method": "rtn", "bits": 4, "group_size": 64} | changes
    quantize(QuantizeOptions(**settings), small(make, family, seed=1, dtype=dtype), out, context)
    return out


def options(text_file: Path, teacher: Path | None = None, **changes: Any) -> DistillOptions:
    settings = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "bf16": False,
    }
    stages = (Stage(loss="labels", steps=4, lr=1e-2),)
    return DistillOptions(**settings | {"stages": stages, "lora": LORA, "save_every": 2} | changes)


# The model


@pytest.mark.parametrize("family", DENSE)
def test_a_packed_model_is_the_dequantized_one(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = packed(make_model, context, tmp_path / "int4", family)
    model, dense = load_packed(folder), load_model(folder)
    inside = [module for module in model.modules() if isinstance(module, PackedBase)]
    assert len(inside) == 2 * 7
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS).logits, dense(input_ids=IDS).logits, rtol=0, atol=1e-5
        )
    kept = sum(p.numel() for p in model.parameters()) + sum(m.qweight.numel() for m in inside) / 2
    assert (
        kept
        < sum(p.numel() for p in dense.parameters())
        - sum(m.in_features * m.out_features for m in inside) * 0.7
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"head_bits": 8},
        {"embedding_bits": 8},
        {"act_order": "permuted", "method": "gptq"},
        {"method": "awq"},
        {"sym": False},
        {"rules": [{"match": "model.layers.0.*", "skip": True}]},
    ],
    ids=["head", "embedding", "g_idx", "awq", "asym", "mixed"],
)
def test_other_packed_layouts(
    changes: dict[str, Any], make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = packed(make_model, context, tmp_path / "packed", **changes)
    model, dense = load_packed(folder), load_model(folder)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS).logits, dense(input_ids=IDS).logits, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_the_scaled_product_is_merged(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Also in layers that are not packed."""
    folder = packed(
        make_model,
        context,
        tmp_path / "int4",
        family,
        rules=[{"match": "*.layers.0.*.down_proj", "skip": True}],
    )
    names = read_architecture(folder)
    student = load_packed(folder)
    before = dense_state(folder)
    parts: dict[str, Tensor] = {}
    with lora_adapters(
        student, names, LoraOptions(r=4, alpha=12, targets=("o_proj", "down_proj"))
    ) as count:
        for key, parameter in student.named_parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(parts)))
                parts[key] = parameter.detach().clone()
        with torch.no_grad():
            expected = student(input_ids=IDS).logits
    assert count == sum(p.numel() for p in parts.values())
    assert len(parts) == 2 * 2 * 2
    after = student.state_dict()
    for key, weight in before.items():
        a, b = (parts.get(f"{key.removesuffix('.weight')}.lora_{x}.default.weight") for x in "AB")
        if a is None or b is None:
            assert torch.equal(after[key], weight.float())
        else:
            torch.testing.assert_close(after[key], weight.float() + 3 * b @ a)
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=IDS).logits, expected, rtol=1e-3, atol=1e-3)


# The step


def test_it_trains_like_adapters_on_the_dequantized_student(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    teacher = small(make_model)
    folder = packed(make_model, context, tmp_path / "int4")
    config = {
        name: value for name, value in read_config(folder).items() if name != "quantization_config"
    }
    write_checkpoint(tmp_path / "dense", dense_state(folder), config, folder, {})
    stages = (Stage(loss="hidden", steps=3, lr=1e-2), Stage(loss="logits", steps=20, lr=1e-2))
    asked = options(text_file, teacher, stages=stages)
    found, expected = (
        distill(asked, tmp_path / name, tmp_path / f"{name}-learnt", context)
        for name in ("int4", "dense")
    )
    for name, curve in expected.details["loss"].items():
        assert found.details["loss"][name] == pytest.approx(curve, rel=1e-3)
    logits = found.details["loss"]["logits"]
    assert sum(logits[-3:]) < 0.9 * sum(logits[:3])
    one, two, before = (
        read_state(tmp_path / "int4-learnt"),
        read_state(tmp_path / "dense-learnt"),
        dense_state(folder),
    )
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-2, atol=1e-4)
    changed = {
        name.split(".")[-2]
        for name in one
        if not torch.equal(one[name], before[name].to(one[name].dtype))
    }
    assert changed == {"q_proj", "down_proj"}
    assert any(
        "int4 stayed packed during training; the output is dense (torch.float32): quantize again"
        in note
        for note in found.notes
    )


def test_a_dense_checkpoint_in_its_own_type_is_written(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    folder = packed(make_model, context, tmp_path / "int4", "qwen2", "bfloat16")
    result = distill(options(text_file), folder, tmp_path / "out", context)
    config, state = read_config(tmp_path / "out"), read_state(tmp_path / "out")
    assert (
        "quantization_config" not in config
        and not (tmp_path / "out" / "quantize_config.json").exists()
    )
    original = read_state(small(make_model, "qwen2", seed=1, dtype="bfloat16"))
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        k: (v.shape, v.dtype) for k, v in original.items()
    }
    load_model(tmp_path / "out")
    whole = read_architecture(folder).parameters
    assert any(
        note.endswith(f"parameters trained, {whole:,} in the student") for note in result.notes
    )


def test_a_killed_qlora_run_resumes_to_the_same(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    folder = packed(make_model, context, tmp_path / "int4")
    named = replace(context, depends_on={"this": 1})
    asked = options(text_file, checkpoint_layers=True)
    whole = distill(asked, folder, tmp_path / "whole", named)
    with before_step(3, interrupt), pytest.raises(KeyboardInterrupt):
        distill(asked, folder, tmp_path / "out", named)
    again = distill(asked, folder, tmp_path / "out", named)
    assert again.details == whole.details
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "whole")


def test_what_cannot_carry_adapters_is_refused(
    make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    folder = packed(make_model, context, tmp_path / "int4")
    with pytest.raises(UsageError, match="a packed checkpoint cannot be trained") as caught:
        distill(options(text_file, lora=None), folder, tmp_path / "out", context)
    assert "adapters with `lora`" in caught.value.hint
    quantize(QuantizeOptions(method="int8"), small(make_model, seed=1), tmp_path / "int8", context)
    with pytest.raises(Refused, match="rounds its inputs to 8 bits"):
        distill(options(text_file), tmp_path / "int8", tmp_path / "out", context)
    mixture = Path(tmp_path / "mixture")
    quantize(QuantizeOptions(method="rtn", group_size=32), make_model("mixtral"), mixture, context)
    with pytest.raises(
        Refused, match="cannot be trained with adapters while its weights are packed"
    ):
        distill(options(text_file), mixture, tmp_path / "out", context)
    assert not (tmp_path / "out").exists()


def test_a_plan_knows_what_becomes_of_a_packed_student(
    make_model: MakeModel, text_file: Path
) -> None:
    def plan(**distillation: Any) -> list[dict[str, Any]]:
        steps = [
            {"kind": "quantize", "group_size": 64},
            {"kind": "distill", "teacher": None, "data": f"text:{text_file}", **distillation},
        ]
        return plan_recipe(
            Recipe.model_validate(
                {"model": str(small(make_model, dtype="bfloat16")), "steps": steps}
            )
        )

    assert [row["precision"] for row in plan(lora={"r": 4})] == ["bf16", "int4", "bf16"]
    assert [row["precision"] for row in plan(qat={"bits": 4, "group_size": 64})] == [
        "bf16",
        "int4",
        "int4",
    ]
    with pytest.raises(UsageError, match="a packed checkpoint cannot be trained"):
        plan()


def test_qlora_from_the_command_line(
    cli: Callable[..., tuple[int, str, str]],
    make_model: MakeModel,
    context: StepContext,
    text_file: Path,
    tmp_path: Path,
) -> None:
    folder = packed(make_model, context, tmp_path / "int4")
    what = (
        "distill",
        folder,
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
    code, out, err = cli(*what, "--lora", 4, "--device", "cpu", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert any("stayed packed" in note for note in json.loads(out)["notes"])
