"""Models that store q, k and v as one matrix, or gate and up: cut, rounded, adapted, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.distill.lora import adapted_matrices
from edgewright.compress.distill.options import LoraOptions
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.assignment import assign_schemes, with_kv_rules
from edgewright.compress.quantize.fold import apply_fold
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.export import export_onnx
from edgewright.models import decoder_layers, weight_of
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
FUSED = ("phi3", "glm4")
IDS = torch.arange(3, 35).unsqueeze(0)
SMALL: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("family", FUSED)
def test_cuts_take_the_right_rows(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """The step itself compares the result in stock transformers with the masked original."""
    source = make_model(family)
    prune(PruneOptions(kv_heads=0.5, ffn=0.25, layers=1), source, tmp_path / "out", context)
    state = read_state(tmp_path / "out")
    gate_up = state["model.layers.1.mlp.gate_up_proj.weight"]
    assert gate_up.shape == (2 * 384, 128)
    whole = read_state(source)
    originals = [whole[f"model.layers.{index}.mlp.gate_up_proj.weight"] for index in range(3)]
    kept = [(gate_up.unsqueeze(1) == one).all(-1).float() for one in originals]
    (rows,) = (one.argmax(1) for one in kept if one.sum() == len(gate_up))
    gate, up = rows.chunk(2)
    assert torch.equal(gate + 512, up)  # a neuron is a row of both halves
    if family == "phi3":
        assert state["model.layers.1.self_attn.qkv_proj.weight"].shape == (64 * (4 + 1 + 1), 128)


def test_other_heads_of_a_group_are_cut_too(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    prune(PruneOptions(heads=0.5), make_model("phi3"), tmp_path / "out", context)
    state = read_state(tmp_path / "out")
    assert state["model.layers.0.self_attn.qkv_proj.weight"].shape == (64 * (4 + 2 + 2), 128)


@pytest.mark.parametrize("how", ["mean", "aligned"])
@pytest.mark.parametrize("family", FUSED)
def test_merged_heads(
    how: Any, family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Turning the heads changes no logit, with interleaved and partial rotary too."""
    source = make_model(family, num_key_value_heads=4)
    result = prune(PruneOptions(merge_kv=2, merge=how), source, tmp_path / "out", context)
    assert result.details["merged"]["max_relative_difference"] < 1e-4
    assert read_architecture(tmp_path / "out").attention_sizes.kv_heads == 2


@pytest.mark.parametrize("family", FUSED)
def test_folding_a_scale_changes_no_logit(family: str, make_model: MakeModel) -> None:
    source = make_model(family, **SMALL)
    model, architecture = load_model(source).double(), read_architecture(source)
    before = logits(model)
    draw = torch.Generator().manual_seed(0)
    for module, layer in zip(decoder_layers(model, architecture), architecture.layers, strict=True):
        for fold in layer.folds:
            width = weight_of(module.get_submodule(fold.readers[0])).shape[1]
            factors = torch.rand(width // fold.repeat, generator=draw) + 0.5
            with torch.no_grad():
                apply_fold(module, fold, factors.double(), torch.float64)
    torch.testing.assert_close(logits(model), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("family", FUSED)
def test_a_fused_matrix_is_rounded_as_one(
    method: Any, family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family, **SMALL)
    quantize(QuantizeOptions(method=method, group_size=32), source, tmp_path / "out", context)
    names = read_state(tmp_path / "out")
    assert "model.layers.0.mlp.gate_up_proj.qweight" in names
    assert ("model.layers.0.self_attn.qkv_proj.qweight" in names) == (family == "phi3")
    assert not any(".gate_proj." in name or ".up_proj." in name for name in names)
    for format in ("onnx", "ort"):  # compared with the checkpoint
        export_onnx(tmp_path / "out", tmp_path / format, "int4", format=format)


def test_bits_of_keys_and_values_are_those_of_the_fused_matrix(make_model: MakeModel) -> None:
    architecture = read_architecture(make_model("phi3", **SMALL))
    options = with_kv_rules(
        architecture, QuantizeOptions.model_validate({"method": "mixed", "group_size": 32})
    )
    schemes = assign_schemes(architecture, options).linears
    bits = [schemes[f"model.layers.0.self_attn.{name}"].bits for name in ("qkv_proj", "o_proj")]
    assert bits == [8, 4]


def test_adapters_are_on_the_fused_matrix(make_model: MakeModel) -> None:
    architecture = read_architecture(make_model("phi3", **SMALL))
    assert adapted_matrices(architecture, LoraOptions()) == ("self_attn.qkv_proj",)
    options = LoraOptions(targets=["qkv_proj", "gate_up_proj"])
    assert adapted_matrices(architecture, options) == ("self_attn.qkv_proj", "mlp.gate_up_proj")


@pytest.mark.parametrize("family", FUSED)
def test_parameters_are_those_of_transformers(family: str, make_model: MakeModel) -> None:
    source = make_model(family)
    stock = AutoModelForCausalLM.from_pretrained(source)
    architecture = read_architecture(source)
    assert architecture.parameters == stock.num_parameters()
    for name, shape in architecture.linears().items():
        assert tuple(stock.get_submodule(name).weight.shape) == shape
