"""ONNX export: every precision against torch, on tiny models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest
from onnx import numpy_helper
from onnx_models import CONFIGS, gptq_model, random_model
from safetensors.torch import load_file, save_file

from edgewright.checkpoints.hashing import read_provenance, write_provenance
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.errors import ParityFailed, Refused, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.parity import check
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions

one_thread = onnx_models.one_thread


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2."""
    return random_model(tmp_path_factory.mktemp("dense") / "model", "qwen2")


@pytest.fixture(scope="module")
def packed(dense: Path) -> Path:
    """The same in the GPTQ layout, groups of 128."""
    return gptq_model(dense.parent / "gptq", dense)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_fp16(tmp_path: Path, name: str) -> None:
    result = export_onnx(random_model(tmp_path / "model", name), tmp_path / "out", "fp16")
    model = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in [*model.graph.input, *model.graph.output]
    }
    assert types["past_key_values.0.key"] == types["present.1.value"] == onnx.TensorProto.FLOAT16
    assert types["logits"] == onnx.TensorProto.FLOAT
    assert result.parity["parity/top1_decode"] == 1.0


def test_fp16_refuses_weights_that_overflow(tmp_path: Path) -> None:
    source = random_model(tmp_path / "model", "llama")
    state = load_file(source / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="up_proj"):
        export_onnx(source, tmp_path / "out", "fp16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(CONFIGS))
def test_int4_is_the_checkpoint_bit_for_bit(tmp_path: Path, name: str) -> None:
    source = gptq_model(tmp_path / "gptq", random_model(tmp_path / "model", name), group=64)
    result = export_onnx(source, tmp_path / "out", "int4")
    state = load_file(source / "model.safetensors")
    model = onnx.load(tmp_path / "out" / "model.onnx")
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    packed_modules = [key.removesuffix(".qweight") for key in state if key.endswith(".qweight")]
    assert len(packed_modules) == 14
    for module in packed_modules:
        parts = {
            part: state[f"{module}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")
        }
        weight = initializers[f"{module}.weight"]
        assert weight.data_type == onnx.TensorProto.INT4
        integers = numpy_helper.to_array(weight).astype(np.int64)
        np.testing.assert_array_equal(
            integers, Gptq().read(parts, Scheme(), module).integers.t().long().numpy() - 8
        )
        np.testing.assert_array_equal(
            numpy_helper.to_array(initializers[f"{module}.weight_scale"]),
            parts["scales"].float().numpy(),
        )
    assert result.parity["parity/low_bit_nodes"] == 14
    assert result.parity["parity/max_abs_diff"] < 1e-3
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_gptq_checkpoint_as_fp32(packed: Path, tmp_path: Path) -> None:
    assert export_onnx(packed, tmp_path / "out", "fp32").parity["parity/max_abs_diff"] < 1e-4


@pytest.mark.parametrize("name", list(CONFIGS))
def test_int8_dynamic(tmp_path: Path, name: str) -> None:
    result = export_onnx(random_model(tmp_path / "model", name), tmp_path / "out", "int8-dynamic")
    assert result.parity["parity/low_bit_nodes"] == 14
    nodes = [
        n.op_type
        for n in onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph.node
    ]
    assert (
        nodes.count("Round") == 2 * 4
    )  # the activation is quantized once for q, k, v and once for gate, up


def test_unknown_precision(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int3"):
        export_onnx(dense, tmp_path / "out", "int3")


def test_int4_of_a_dense_checkpoint_says_quantize_first(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        export_onnx(dense, tmp_path / "out", "int4")
    assert "edgewright quantize" in caught.value.hint


def test_int8_of_a_quantized_checkpoint(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        export_onnx(packed, tmp_path / "out", "int8-dynamic")


@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_zero_points_are_read(dense: Path, tmp_path: Path, format: str) -> None:
    packed = gptq_model(tmp_path / "asymmetric", dense, sym=False)
    assert export_onnx(packed, tmp_path / "out", "int4", format=format).parity


def test_tensorrt_has_no_zero_points(dense: Path, tmp_path: Path) -> None:
    asymmetric = gptq_model(tmp_path / "said", dense, sym=False)
    with pytest.raises(Refused, match="asymmetric"):
        export_onnx(asymmetric, tmp_path / "out", "int4", format="tensorrt")
    unsaid = gptq_model(tmp_path / "unsaid", dense)
    state = load_file(unsaid / "model.safetensors")
    state["model.layers.1.mlp.down_proj.qzeros"][0, 0] ^= 1
    save_file(state, unsaid / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"layers\.1\.mlp\.down_proj.*asymmetric"):
        export_onnx(unsaid, tmp_path / "out", "int4", format="tensorrt")


def test_awkward_groups_are_refused(tmp_path: Path) -> None:
    sizes = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 32,
    }
    source = random_model(tmp_path / "model", "qwen2", **sizes)
    with pytest.raises(Refused, match="power of two"):
        export_onnx(gptq_model(tmp_path / "gptq", source, group=96), tmp_path / "out", "int4")


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "bidirectional"),
    ],
)
def test_arithmetic_without_a_counterpart_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], word: str
) -> None:
    source = random_model(tmp_path / "model", name, **changes)
    with pytest.raises(Refused, match=word):
        export_onnx(source, tmp_path / "out", "fp32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_config_that_transformers_refuses(tmp_path: Path) -> None:
    source = random_model(tmp_path / "model", "llama")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_attention_heads": 6}))
    with pytest.raises(UsageError, match="not a multiple"):
        export_onnx(source, tmp_path / "out", "fp32")


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    source = random_model(tmp_path / "model", "qwen3")
    state = load_file(source / "model.safetensors")
    del state["model.layers.0.self_attn.k_norm.weight"]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="k_norm"):
        export_onnx(source, tmp_path / "out", "fp32")


def test_parity_failure_leaves_nothing(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph with a wrong activation function is caught, and no directory appears."""
    monkeypatch.setattr(
        "edgewright.export.onnx.decoder.Decoder._activation",
        lambda self, value, ffn: self.graph.node("Relu", value),
    )
    with pytest.raises(ParityFailed, match=r"kl .* \(at most"):
        export_onnx(dense, tmp_path / "out", "fp32")
    assert list(tmp_path.iterdir()) == []


def test_parity_wants_low_bit_nodes(dense: Path, tmp_path: Path) -> None:
    """An artifact that says int4 but multiplies in float is not let through."""
    export_onnx(dense, tmp_path / "out", "fp32")
    found = read_provenance(tmp_path / "out")
    write_provenance(tmp_path / "out", found | {"precision": "int4", "low_bit_linears": 14})
    with pytest.raises(ParityFailed, match=r"low_bit_nodes 0 \(at least 14\)"):
        check(tmp_path / "out", dense, [[5, 6, 7]], decode_steps=1)


def test_bf16_stores_half_and_runs_on_a_cpu_as_rewritten(dense: Path, tmp_path: Path) -> None:
    export_onnx(dense, tmp_path / "bf16", "bf16")
    export_onnx(dense, tmp_path / "fp32", "fp32")
    half, full = ((tmp_path / name / "model.onnx.data").stat().st_size for name in ("bf16", "fp32"))
    assert half < 0.6 * full
    graph = onnx.load(str(tmp_path / "bf16" / "model.onnx"), load_external_data=False).graph
    assert {value.type.tensor_type.elem_type for value in graph.input if "past" in value.name} == {
        onnx.TensorProto.BFLOAT16
    }
    ids = np.array([[5, 6, 7, 8, 9]])
    rounded, exact = (
        OnnxDecoder(tmp_path / name).forward(ids, np.ones_like(ids))[0] for name in ("bf16", "fp32")
    )
    assert 0 < np.abs(rounded - exact).max() < 0.1
    (tmp_path / "bf16" / "model.cpu.onnx").unlink()
    with pytest.raises(UsageError, match="cannot load"):
        OnnxDecoder(tmp_path / "bf16")


@pytest.mark.parametrize("format", ["ort", "gguf", "edge-llm", "triton"])
def test_bf16_is_refused_where_nothing_reads_it(format: str) -> None:
    with pytest.raises(ValueError, match=f"format {format} has no bf16"):
        ExportOptions(format=format, precision="bf16")
