"""Method mixed: keys and values in more bits, in the checkpoint and in what is exported from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from edgewright.checkpoints.config import read_architecture, read_config
from edgewright.checkpoints.hashing import weight_bytes
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.assignment import assign_schemes, with_kv_rules
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.export import export_onnx
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.state import checkpoint_state
from edgewright.targets.edge_llm import check_checkpoint
from edgewright.targets.profile import load_target

SMALL = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "head_dim": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 256,
}
KEYS_AND_VALUES = ("k_proj", "v_proj")


def options(**values: Any) -> QuantizeOptions:
    return QuantizeOptions.model_validate(values)


@pytest.fixture
def mixed(make_model: Callable[..., Path], context: Any, tmp_path: Path) -> Path:
    quantize(options(method="mixed"), make_model("qwen2", **SMALL), tmp_path / "mixed", context)
    return tmp_path / "mixed"


def test_mixed_is_gptq_with_other_options() -> None:
    assert options(method="mixed") == options(method="gptq", kv_bits=8, group_size=64, sym=False)
    given = options(method="mixed", kv_bits=3, sym=True)
    assert (given.kv_bits, given.sym, given.group_size) == (3, True, 64)
    with pytest.raises(ValueError, match="kv_bits"):
        options(method="awq", kv_bits=8)


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
def test_keys_and_values_of_every_layer_get_them(
    make_model: Callable[..., Path], family: str
) -> None:
    model = read_architecture(make_model(family, **SMALL))
    ruled = with_kv_rules(model, options(kv_bits=8))
    for name, scheme in assign_schemes(model, ruled).linears.items():
        assert scheme.bits == (8 if name.endswith(KEYS_AND_VALUES) else 4), name
    assert with_kv_rules(model, options(kv_bits=4)) == options(kv_bits=4)


def test_a_rule_goes_before_them(make_model: Callable[..., Path]) -> None:
    model = read_architecture(make_model("qwen2", **SMALL))
    rules = [{"match": "*.0.self_attn.v_proj", "bits": 3, "group_size": 32}]
    linears = assign_schemes(model, with_kv_rules(model, options(kv_bits=8, rules=rules))).linears
    assert linears["model.layers.0.self_attn.v_proj"] == Scheme(3, 32)
    assert linears["model.layers.1.self_attn.v_proj"] == Scheme(8, 128)


def test_the_checkpoint_says_so_and_the_plan_counts_it(mixed: Path) -> None:
    block = read_config(mixed)["quantization_config"]
    assert [entry["bits"] for entry in block["dynamic"].values()] == [8, 8]
    # The rest is norms and biases, which a plan leaves out.
    assert checkpoint_state(mixed).weight_bytes == pytest.approx(weight_bytes(mixed), rel=0.05)
    (violation,) = [
        v
        for v in check_checkpoint(mixed, load_target("jetson-orin-nano-8gb"))
        if v.rule == "layout"
    ]
    assert "--kv-bits" in violation.nearest


@pytest.mark.parametrize("precision", ["int4", "int4-a8"])
def test_onnx_runtime_gets_one_product_for_keys_and_values(
    mixed: Path, tmp_path: Path, precision: str
) -> None:
    result = export_onnx(mixed, tmp_path / precision, precision, format="ort")
    # A layer has queries, keys with values, output, gate with up, and down. With float inputs, 8
    # bits are two products of 4.
    products = 5 if precision == "int4-a8" else 6
    assert result.parity["parity/low_bit_nodes"] == SMALL["num_hidden_layers"] * products


def test_portable_graphs_keep_them_in_floating_point(mixed: Path, tmp_path: Path) -> None:
    result = export_onnx(mixed, tmp_path / "onnx", "int4")
    assert result.parity["parity/low_bit_nodes"] == SMALL["num_hidden_layers"] * 5


@pytest.mark.parametrize(("sym", "kind"), [(True, "Q4_0"), (False, "Q4_1")])
def test_gguf_has_blocks_for_both(
    make_model: Callable[..., Path], context: Any, tmp_path: Path, sym: bool, kind: str
) -> None:
    source = tmp_path / "source"
    quantize(options(method="mixed", sym=sym), make_model("qwen2", **SMALL), source, context)
    export(ExportOptions(format="gguf", precision="int4"), source, tmp_path / "gguf", context)
    tensors = {t.name: t for t in gguf.GGUFReader(str(tmp_path / "gguf" / "model.gguf")).tensors}
    state = load_model(source).state_dict()
    for theirs, ours, wanted in (
        ("attn_v", "self_attn.v_proj", "Q8_0"),
        ("attn_output", "self_attn.o_proj", kind),
    ):
        tensor = tensors[f"blk.1.{theirs}.weight"]
        assert tensor.tensor_type.name == wanted
        expected = state[f"model.layers.1.{ours}.weight"].float()
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        # With zero points, Q4_1 rounds the minimum of a block to fp16, and Q8_0, which has none,
        # rounds again: half a step is 1 / 254 of the largest weight.
        limit = 0.0 if sym else {"Q4_1": 1e-3, "Q8_0": 1 / 250}[wanted]
        off = (values.reshape(expected.shape) - expected).abs().max()
        assert off <= limit * expected.abs().max()
