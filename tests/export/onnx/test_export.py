"""ONNX export: every family and precision against torch, on tiny models with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import DENSE
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from edgewright.checkpoints.files import config_for_everyone
from edgewright.checkpoints.layouts import PackedLinear, Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.errors import ParityFailed, Refused, UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.parity import check
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.models import family_of

SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
MILLION = {"rope_type": "default", "rope_theta": 1e6}
CONFIGS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": 7, "rope_parameters": MILLION}),
    "qwen2": (
        Qwen2Config,
        {"num_attention_heads": 6, "tie_word_embeddings": True, "rope_parameters": YARN},
    ),
    "qwen3": (
        Qwen3Config,
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "rope_parameters": MILLION,
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "num_key_value_heads": 1,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 48,
        },
    ),
}


def random_model(path: Path, name: str, **changes: Any) -> Path:
    """A checkpoint of a tiny model in which every tensor, biases and norms too, makes a difference."""
    torch.manual_seed(0)
    kind, settings = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(kind(**SIZES | settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    model.save_pretrained(path)
    (path / "config.json").write_text(
        json.dumps(config_for_everyone(json.loads((path / "config.json").read_text())))
    )
    (path / "tokenizer_config.json").write_text("{}")
    return path


def round_to_nearest(weight: torch.Tensor, group: int) -> PackedLinear:
    """Symmetric 4-bit integers of a weight, without any search."""
    grouped = weight.float().view(len(weight), -1, group)
    scales = (grouped.abs().amax(-1) / 7.5).half().float()
    integers = (grouped / scales.unsqueeze(-1)).round().clamp(-8, 7) + 8
    return PackedLinear(
        integers.to(torch.uint8).view_as(weight),
        scales,
        torch.full(scales.shape, 8, dtype=torch.uint8),
        4,
        group,
    )


def gptq_model(path: Path, dense: Path, group: int = 128, **changes: Any) -> Path:
    """A GPTQ checkpoint of a dense one, rounded to nearest; `changes` go into its quantization_config."""
    config = json.loads((dense / "config.json").read_text())
    family, state = family_of(config), load_file(dense / "model.safetensors")
    for layer in range(config["num_hidden_layers"]):
        for module in (name for names in family.input_groups for name in names):
            key = family.key(layer, module)
            for part, tensor in Gptq().write(round_to_nearest(state.pop(key), group)).items():
                state[f"{key.removesuffix('weight')}{part}"] = tensor
    path.mkdir()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config["quantization_config"] = Gptq().config(Scheme(4, group), 0.01) | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small only wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=list(CONFIGS))
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A family's checkpoint and its fp32 artifact."""
    folder = tmp_path_factory.mktemp(request.param)
    source = random_model(folder / "model", request.param)
    export_onnx(source, folder / "fp32", "fp32")
    return source, folder / "fp32"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2."""
    return random_model(tmp_path_factory.mktemp("dense") / "model", "qwen2")


@pytest.fixture(scope="module")
def packed(dense: Path) -> Path:
    """The same in the GPTQ layout, groups of 128."""
    return gptq_model(dense.parent / "gptq", dense)


def torch_logits(checkpoint: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.inference_mode():
        arrays = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        return load_model(checkpoint)(
            **{k: torch.from_numpy(v) for k, v in arrays.items()}
        ).logits.numpy()


def test_every_family_is_covered() -> None:
    assert set(CONFIGS) == set(DENSE)


def test_fp32_figures_and_files(exported: tuple[Path, Path]) -> None:
    _, artifact = exported
    provenance = json.loads((artifact / "edgewright.json").read_text())
    assert provenance["parity"]["parity/max_abs_diff"] < 1e-4
    assert (
        provenance["parity"]["parity/top1_prefill"]
        == provenance["parity"]["parity/top1_decode"]
        == 1.0
    )
    assert provenance["inputs"][:4] == [
        "input_ids",
        "attention_mask",
        "position_ids",
        "past_key_values.0.key",
    ]
    assert provenance["outputs"][-1] == "present.1.value"
    assert {file.name for file in artifact.iterdir()} == {
        "model.onnx",
        "model.onnx.data",
        "config.json",
        "edgewright.json",
        "generation_config.json",
        "tokenizer_config.json",
        "genai_config.json",
    }


def test_graph_is_standard_and_in_the_lowest_opset(exported: tuple[Path, Path]) -> None:
    model = onnx.load(exported[1] / "model.onnx", load_external_data=False)
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (
        8,
        [("", 17)],
    )
    assert {node.domain for node in model.graph.node} == {""}
    offsets = [
        int(e.value) for t in model.graph.initializer for e in t.external_data if e.key == "offset"
    ]
    assert offsets == sorted(offsets) and not any(offset % 4096 for offset in offsets)


def test_tied_weights_are_stored_once(exported: tuple[Path, Path]) -> None:
    source, artifact = exported
    state = load_file(source / "model.safetensors")
    dense_bytes = 4 * sum(t.numel() for t in state.values())
    assert (artifact / "model.onnx.data").stat().st_size < dense_bytes + 4096 * len(state)


@pytest.mark.parametrize(("length", "split"), [(1, 0), (7, 0), (23, 11), (23, 22)])
def test_any_split_between_past_and_present(
    exported: tuple[Path, Path], length: int, split: int
) -> None:
    """Whatever part of a text is cached, and however long, its last tokens get the same logits."""
    source, artifact = exported
    tokens = np.random.default_rng(1).integers(1, 211, (2, length))
    mask = np.ones_like(tokens)
    mask[1, : length // 3] = 0
    decoder, past = OnnxDecoder(artifact, threads=1), None
    if split:
        _, past = decoder.forward(tokens[:, :split], mask[:, :split])
    logits, _ = decoder.forward(tokens[:, split:], mask, past=past)
    real = mask[:, split:].astype(bool)
    np.testing.assert_allclose(
        logits[real], torch_logits(source, tokens, mask)[:, split:][real], atol=1e-4
    )
    assert np.isfinite(logits).all()


def test_window_matters(exported: tuple[Path, Path]) -> None:
    """The sliding windows of these models are shorter than the texts above, so that a wrong mask would show."""
    config = json.loads((exported[0] / "config.json").read_text())
    if config["model_type"] in ("mistral", "qwen3", "gemma3_text"):
        assert any(0 < kind.window < 16 for kind in family_of(config).layer_kinds(config))


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


def test_asymmetric_int4_is_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="asymmetric"):
        export_onnx(gptq_model(tmp_path / "said", dense, sym=False), tmp_path / "out", "int4")
    unsaid = gptq_model(tmp_path / "unsaid", dense)
    state = load_file(unsaid / "model.safetensors")
    state["model.layers.1.mlp.down_proj.qzeros"][0, 0] ^= 1
    save_file(state, unsaid / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match=r"layers\.1\.mlp\.down_proj.*asymmetric"):
        export_onnx(unsaid, tmp_path / "out", "int4")


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
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "dynamic",
        ),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "softcapping"),
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
        lambda self, value: self.graph.node("Relu", value),
    )
    with pytest.raises(ParityFailed, match=r"kl .* \(at most"):
        export_onnx(dense, tmp_path / "out", "fp32")
    assert list(tmp_path.iterdir()) == []


def test_parity_notices_another_checkpoint(exported: tuple[Path, Path], tmp_path: Path) -> None:
    source, artifact = exported
    other = random_model(
        tmp_path / "other", json.loads((source / "config.json").read_text())["model_type"]
    )
    state = load_file(other / "model.safetensors")
    state["model.layers.1.mlp.gate_proj.weight"] *= 1.02  # not what a norm behind it would undo
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ParityFailed, match="max_abs_diff"):
        check(artifact, other, [[5, 6, 7, 8, 9]], decode_steps=1)


def test_parity_wants_low_bit_nodes(dense: Path, tmp_path: Path) -> None:
    """An artifact that says int4 but multiplies in float is not let through."""
    export_onnx(dense, tmp_path / "out", "fp32")
    file = tmp_path / "out" / "edgewright.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"precision": "int4", "low_bit_linears": 14})
    )
    with pytest.raises(ParityFailed, match=r"low_bit_nodes 0 \(at least 14\)"):
        check(tmp_path / "out", dense, [[5, 6, 7]], decode_steps=1)


def test_generate_matches_torch_and_stops(exported: tuple[Path, Path]) -> None:
    """A padded batch continues as transformers continues it; rows end by themselves, and then the batch does."""
    source, artifact = exported
    tokens = np.random.default_rng(2).integers(1, 211, (3, 9))
    mask = np.ones_like(tokens)
    mask[0, :5] = 0
    decoder, model = OnnxDecoder(artifact, threads=1), load_model(source)
    free = decoder.generate(tokens, mask, 12, [])
    end = [int(free[0, 2]), int(free[1, 5]), int(free[2, 8])]
    limits = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": end[0], "eos_token_id": end}
    want = model.generate(
        torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), **limits
    )[:, 9:].numpy()
    got = decoder.generate(tokens, mask, 12, end)
    assert free.shape == (3, 12)
    np.testing.assert_array_equal(got, want)


def test_runtime_needs_no_torch(exported: tuple[Path, Path]) -> None:
    code = (
        "import sys; from edgewright.export.onnx.runtime import OnnxDecoder; import numpy as np;"
        f"one = np.ones((1, 3), np.int64); print(OnnxDecoder({str(exported[1])!r}, 1).generate(one, one, 2, []).shape);"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, 2)"), done.stderr


def test_runtime_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model\.onnx"):
        OnnxDecoder(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"garbage")
    with pytest.raises(UsageError, match="cannot load"):
        OnnxDecoder(tmp_path)


def test_runtime_notices_a_truncated_data_file(exported: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data"):
        content = (exported[1] / name).read_bytes()
        (tmp_path / name).write_bytes(
            content[: len(content) // 2] if name.endswith("data") else content
        )
    with pytest.raises(UsageError, match="cannot load"):
        OnnxDecoder(tmp_path)


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
        ExportOptions(format=format, precision="bf16")  # pyright: ignore[reportArgumentType] - parametrized
