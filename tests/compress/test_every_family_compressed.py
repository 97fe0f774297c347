"""Pruning, walks through layers, folds and 4-bit checkpoints of every family.

The families here have every kind of block; those that differ from them in names only are slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_table import SETTINGS
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.settings import load_settings
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.layer_inputs import advance, first_inputs, input_hessian
from edgewright.compress.calibration.layer_walk import LayerWalk
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.fold import apply_fold
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.weights import Weights
from edgewright.models import HEADS, decoder_layers, expressible, weight_of
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
KINDS = ("cohere2", "gemma2", "granite", "nemotron", "olmo2")
"""Parallel blocks, soft caps, factors, layer norms without a gate, norms behind blocks only."""
EVERY = [
    pytest.param(family, marks=() if family in KINDS else pytest.mark.slow)
    for family in sorted(SETTINGS)
]
IDS = torch.arange(7, 39).unsqueeze(0)


@pytest.mark.parametrize("family", EVERY)
def test_pruned_is_masked(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """The step itself compares stock transformers with the masked original."""
    source = make_model(family)
    model = read_architecture(source)
    heads = {} if expressible(model, HEADS) else {"kv_heads": 0.5}
    options = PruneOptions(ffn=0.5, layers=1, criterion="activation", **heads)
    result = prune(options, source, tmp_path / "out", context)
    assert result.details["max_relative_difference"] < 1e-4
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    left = read_architecture(tmp_path / "out")
    assert left.parameters == small.num_parameters() < model.parameters
    assert left.attention_sizes.kv_heads == (1 if heads else 2)


@pytest.mark.parametrize("family", EVERY)
def test_a_walk_sees_the_inputs_of_a_layer(
    family: str, make_model: MakeModel, context: StepContext
) -> None:
    source = make_model(family)
    model = Streamed(source)
    rows = context.calibration.rows(source, 0)[:2]
    walked, calls = first_inputs(model, rows)
    plain, _ = first_inputs(model, rows)
    layer_walk = LayerWalk(ActivationBuffer())
    for layer, call in zip(model.architecture.layers, calls, strict=True):
        with model.held(layer.index) as module, torch.no_grad():
            wanted = {
                group: input_hessian(module, module.get_submodule(group[0]), plain, call)
                for group in layer.input_groups
            }
            found = dict(layer_walk.visit(module, layer, call, walked))
            advance(module, plain, call)
        assert found.keys() == wanted.keys()
        for group, hessian in wanted.items():
            limit = 1e-4 * float(hessian.diagonal().max())
            torch.testing.assert_close(found[group], hessian, rtol=1e-4, atol=limit)
        torch.testing.assert_close(walked[:2], plain[:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", sorted(SETTINGS))
def test_folds_change_no_output(family: str, make_model: MakeModel) -> None:
    source = make_model(family)
    described, model = read_architecture(source), load_model(source).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = model(input_ids=IDS).logits
        for module, layer in zip(decoder_layers(model, described), described.layers, strict=True):
            assert layer.folds
            for fold in layer.folds:
                width = weight_of(module.get_submodule(fold.readers[0])).shape[1]
                size = width // fold.repeat  # a fused writer has other outputs as well
                factors = torch.rand(size, generator=generator).double().mul(2.77).sub(1.386).exp()
                apply_fold(module, fold, factors, torch.float64)
        after = model(input_ids=IDS).logits
    assert float((after - before).abs().max()) <= 1e-5 * float(before.abs().max())


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_four_bits_in_a_graph_and_in_stock_transformers(
    family: str, method: Any, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, packed = make_model(family), tmp_path / "packed"
    quantize(QuantizeOptions(method=method, group_size=64), source, packed, context)
    model = stock_of_packed(packed)
    with torch.no_grad():
        wanted = model(input_ids=IDS).logits[0].numpy()
    for format in ("onnx", "ort"):
        found = export_onnx(packed, tmp_path / format, "int4", format=format).parity
        assert found["parity/top1_prefill"] >= 0.995
        assert found["parity/top1_decode"] >= 0.995
        assert found["parity/low_bit_nodes"] > 0
        ids = IDS.numpy()
        got, _ = OnnxDecoder(tmp_path / format, threads=1).forward(ids, np.ones_like(ids))
        assert np.abs(got[0] - wanted).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(SETTINGS))
@pytest.mark.parametrize(("method", "limit"), [("int8", 0.1), ("smoothquant", 0.15)])
def test_eight_bits(
    family: str,
    method: Any,
    limit: float,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    source, packed = make_model(family), tmp_path / "packed"
    options = QuantizeOptions(method=method)
    if reasons := expressible(read_architecture(source), method):
        with pytest.raises(Refused, match=re.escape(reasons[0].message)):
            quantize(options, source, packed, context)
        return
    quantize(options, source, packed, context)
    with torch.no_grad():
        wanted = load_model(source)(input_ids=IDS).logits
        found = load_model(packed)(input_ids=IDS).logits
    assert float((found - wanted).norm() / wanted.norm()) <= limit


def stock_of_packed(packed: Path) -> Any:
    """Stock transformers with every tensor of a packed checkpoint; integers are dequantized."""
    settings = load_settings(packed)
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    architecture = read_architecture(packed)
    weights = Weights(packed, architecture.config)
    state = read_state(packed)
    linears = {name for name in architecture.linears() if weights.is_packed(name)}
    assert linears
    plain = {
        name: tensor.float()
        for name, tensor in state.items()
        if name.rpartition(".")[0] not in linears or name.endswith(".bias")
    }
    plain |= {f"{name}.weight": weights.dense(name) for name in linears}
    model = AutoModelForCausalLM.from_config(settings).float().eval()
    missing, unexpected = model.load_state_dict(plain, strict=False)
    assert not unexpected
    assert set(missing) <= {f"{architecture.head}.weight"}
    model.tie_weights()
    return model
