"""What a plan says of a KV cache, and what the artifact has: type, bytes, scales and centers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models.kv_cache import KvCache
from edgewright.pipeline.forecast import device_row
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.steps.state import checkpoint_state
from edgewright.targets import load_target

CONTEXT = StepContext(CalibrationData(samples=8, seq_len=64))
POSITIONS = 256
"""A multiple of the steps in which a cache that is written in place grows."""
CASES = [
    ("llama", "ort", "fp32", "cpu"),
    ("gemma3_text", "ort", "fp32", "cpu"),
    ("llama", "onnx", "fp32", "cpu"),
    ("llama", "tensorrt", "fp16", "jetson-orin-nano-8gb"),
]
"""Cache written in place, with windows, copied by every step, in fp16."""


def held_bytes(decoder: OnnxDecoder) -> int:
    """Bytes of the tensors that hold the keys and values of so many positions."""
    ids = np.arange(POSITIONS)[None] % 400
    cache = decoder.open_cache(1, POSITIONS)
    decoder.step(ids, np.ones_like(ids), cache)
    return sum(value.numpy().nbytes for value in cache.past)


@pytest.mark.parametrize("kv_cache", ["float", "int8"])
@pytest.mark.parametrize(("family", "format", "precision", "target"), CASES)
def test_planned_bytes_are_those_of_the_artifact(
    make_model: Callable[..., Path],
    tmp_path: Path,
    family: str,
    format: str,
    precision: str,
    target: str,
    kv_cache: KvCache,
) -> None:
    source = make_model(family)
    planned = checkpoint_state(source).exported(format, precision, kv_cache)
    row = device_row("export", planned, load_target(target), POSITIONS, 1)
    options = ExportOptions.model_validate(
        {"format": format, "precision": precision, "kv_cache": kv_cache}
    )
    artifact = tmp_path / "artifact"
    export(options, source, artifact, CONTEXT)
    assert row["kv_bytes"] == held_bytes(OnnxDecoder(artifact, 1))
    constants = [
        numpy_helper.to_array(one).nbytes
        for one in onnx.load(artifact / "model.onnx", load_external_data=False).graph.initializer
        if one.name.startswith("past_key_values.")
    ]
    assert planned.extra_bytes == sum(constants)
    assert bool(constants) == (kv_cache == "int8")
    record = json.loads((artifact / "edgewright.json").read_text())
    assert record["kv_cache"] == row["kv_cache"] == kv_cache


def test_the_graph_for_tensorrt(make_model: Callable[..., Path], tmp_path: Path, cli: Any) -> None:
    """Bindings in INT8, one constant scale and a zero point of zero for each rounding."""
    artifact = tmp_path / "artifact"
    export(
        ExportOptions(format="tensorrt", precision="fp16", kv_cache="int8"),
        make_model("qwen2"),
        artifact,
        CONTEXT,
    )
    graph = onnx.load(artifact / "model.onnx", load_external_data=False).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)
    }
    caches = {kind for name, kind in types.items() if name.startswith(("past_", "present."))}
    assert caches == {TensorProto.INT8}
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer if one.raw_data}
    rounding = [node for node in graph.node if node.op_type.endswith("quantizeLinear")]
    rounding += [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(rounding) == 2 * 2 * 3, "a Q and a DQ for keys and values of three layers"
    for node in rounding:
        scale, zero = (constants[name] for name in node.input[1:])
        assert scale.shape == () and scale.dtype == np.float16 and scale == 1
        assert zero.dtype == np.int8 and zero == 0
    for jetpack, broken in (("6.2", set[str]()), ("7.2", set[str]()), ("5.1", {"kv-cache"})):
        nano = ("--target", "jetson-orin-nx-16gb", "--jetpack", jetpack)
        _, out, _ = cli("targets", "check", artifact, *nano, "--json")
        rules = {found["rule"] for found in json.loads(out)["violations"]}
        assert rules & {"kv-cache", "quantization", "parser", "operator"} == broken


def test_a_plan_of_a_model_says_both(make_model: Callable[..., Path], cli: Any) -> None:
    model = make_model("llama")

    def planned(*more: str) -> dict[str, Any]:
        device = ("--target", "jetson-orin-nano-8gb", "--json")
        code, out, _ = cli("plan", model, *device, *more)
        assert code == 0
        return json.loads(out)["rows"][0]

    floats, rounded = planned(), planned("--kv-cache", "int8")
    assert rounded["kv_bytes"] * 2 == floats["kv_bytes"]
    assert floats["longest_context_int8"] == rounded["longest_context"]
    assert "--kv-cache int8" in rounded["commands"][0]
    assert any("8 bits" in note for note in rounded["notes"])
    assert rounded["decode_tok_s"] > floats["decode_tok_s"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "onnx", "--window", "64"), "windowed KV cache cannot be in 8 bits"),
        (("--format", "tensorrt", "--precision", "bf16"), "bf16 has no KV cache in 8 bits"),
        (("--format", "gguf"), "format gguf has no KV cache in 8 bits"),
    ],
)
def test_what_cannot_be_together(
    cli: Any, make_model: Any, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    out = ("--kv-cache", "int8", "--out", tmp_path / "a")
    code, _, err = cli("export", make_model("llama"), *options, *out)
    assert (code, message in " ".join(err.split())) == (2, True)
