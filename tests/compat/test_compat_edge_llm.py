"""NVIDIA's TensorRT-Edge-LLM exporter reads our checkpoints and packs every quantized layer.

The packed weights equal ours.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.tensors import tensors_of
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.weights import Weights
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.targets import load_target
from edgewright.targets.edge_llm import check_checkpoint

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
CONTEXT = StepContext(CalibrationData(samples=4, seq_len=64))
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 256, "dtype": "float16"}
INT4 = "Int4GroupwiseGemmPluginV2"


def exported(path: Path, out: Path) -> onnx.ModelProto:
    """The graph that the real exporter makes, with its weights."""
    program = environment("edgellm").parent / "tensorrt-edgellm-export"
    done = subprocess.run(
        [str(program), str(path), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = [file for file in out.rglob("*.onnx") if "llm" in str(file)]
    return onnx.load(str(file))


def rope_base(out: Path) -> float:
    """The rope base in the config that the exporter writes for its runtime."""
    config = json.loads(next(out.rglob("config.json")).read_text())
    return float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def unpacked(words: np.ndarray, n: int, k: int) -> np.ndarray:
    """The 4-bit integers [n, k] from the plugin's order.

    The order has tiles of 128 x 64: eight rows of 128 words, one word for each thread and fragment.
    """
    tiles = words.view(np.uint32).reshape(-(-n // 128), -(-k // 64), 4, 2, 128)
    out = np.zeros((tiles.shape[0] * 128, tiles.shape[1] * 64), np.uint8)
    thread = np.arange(128)
    for (tile_n, tile_k, block, half), row in (
        (index, tiles[index]) for index in np.ndindex(tiles.shape[:4])
    ):
        for place in range(8):
            high, odd, far = place in (2, 3, 6, 7), place >= 4, place % 2
            rows = tile_n * 128 + half * 64 + thread // 4 + 32 * high
            columns = tile_k * 64 + block * 16 + 2 * (thread % 4) + 8 * far + odd
            out[rows, columns] = (row >> (4 * place)) & 15
    return out[:n, :k]


def packed_layers(model: onnx.ModelProto) -> dict[tuple[int, int], list[np.ndarray]]:
    """The dequantized [n, k] weights of every INT4 plugin node, by shape."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for node in model.graph.node:
        if node.op_type == INT4:
            sizes = {a.name: a.i for a in node.attribute}
            n, k, group = sizes["gemm_n"], sizes["gemm_k"], sizes["group_size"]
            nibbles = unpacked(numpy_helper.to_array(weights[node.input[1]]), n, k).astype(
                np.float32
            )
            scales = (
                numpy_helper.to_array(weights[node.input[2]])
                .astype(np.float32)
                .reshape(k // group, n)
                .T
            )
            found.setdefault((n, k), []).append((nibbles - 8) * scales.repeat(group, 1))
    return found


def same_weights(found: dict[tuple[int, int], list[np.ndarray]], path: Path) -> int:
    """Match each of our dequantized layers with one in the graph: how many there are."""
    model = read_architecture(path)
    weights, count = Weights(path, model.config), 0
    for module in model.linears():
        if weights.is_packed(module):
            ours = weights.dense(module).numpy()
            hits = [i for i, theirs in enumerate(found[ours.shape]) if np.array_equal(theirs, ours)]
            assert hits, module
            found[ours.shape].pop(hits[0])
            count += 1
    assert not any(found.values())
    return count


def products(model: onnx.ModelProto) -> int:
    """The number of matrix products whose weight is floating point and not dequantized."""
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    made = {out: node for node in model.graph.node for out in node.output}

    def dense(name: str) -> bool:
        while name in made and made[name].op_type in ("Transpose", "Cast", "Reshape", "Identity"):
            name = made[name].input[0]
        return weights.get(name) in (onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT)

    return sum(
        dense(name)
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input[:2]
    )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["gptq", "awq", "pruned"])
def test_int4_checkpoints_become_one_plugin_a_layer(
    family: str, kind: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_model(family, **SMALL)
    if kind == "pruned":
        prune(
            PruneOptions(heads=0.5, ffn=0.5, criterion="magnitude"),
            source,
            tmp_path / "pruned",
            CONTEXT,
        )
        source = tmp_path / "pruned"
    made = tmp_path / "int4"
    quantize(QuantizeOptions(method="awq" if kind == "awq" else "gptq"), source, made, CONTEXT)
    assert check_checkpoint(made, load_target("jetson-orin-nano-8gb")) == []
    model = exported(made, tmp_path / "out")
    assert sum(node.op_type == INT4 for node in model.graph.node) == 14
    assert products(model) == 1  # the head stays in floating point
    assert same_weights(packed_layers(model), made) == 14
    assert rope_base(tmp_path / "out") == 500000


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_smoothquant_checkpoints_become_int8(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    made = tmp_path / "int8"
    quantize(QuantizeOptions(method="smoothquant"), make_model(family, **SMALL), made, CONTEXT)
    assert check_checkpoint(made, load_target("jetson-orin-nano-8gb")) == []
    model = exported(made, tmp_path / "out")
    assert products(model) == 1
    weights = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    }
    theirs = sorted(
        numpy_helper.to_array(tensor).tobytes()
        for tensor in weights.values()
        if len(tensor.dims) == 2
    )
    ours = sorted(
        tensor.numpy().tobytes() for _, tensor in tensors_of(made) if tensor.dtype == torch.int8
    )
    assert len(ours) == 14
    assert theirs == ours
    assert rope_base(tmp_path / "out") == 500000


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_floating_point_checkpoints_stay_what_they_are(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = exported(make_model(family, **SMALL), tmp_path / "out")
    assert not [node for node in model.graph.node if "Int4" in node.op_type]
    assert products(model) == 11  # query, key and value of a layer in one; and the head
    assert rope_base(tmp_path / "out") == 500000


@pytest.mark.parametrize(
    ("options", "rule"), [({"group_size": 64}, "int4-group"), ({"bits": 8}, "precision")]
)
def test_what_our_rules_refuse_the_exporter_does_not_make(
    options: Any, rule: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The exporter fails, or makes nodes that its kernel does not have: no usable graph."""
    made = tmp_path / "made"
    quantize(QuantizeOptions.model_validate(options), make_model("llama", **SMALL), made, CONTEXT)
    assert rule in {
        violation.rule for violation in check_checkpoint(made, load_target("jetson-orin-nano-8gb"))
    }
    program = environment("edgellm").parent / "tensorrt-edgellm-export"
    done = subprocess.run(
        [str(program), str(made), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    nodes = [
        node
        for file in (tmp_path / "out").rglob("*.onnx")
        for node in onnx.load(str(file), load_external_data=False).graph.node
    ]
    groups = {
        attribute.i
        for node in nodes
        for attribute in node.attribute
        if attribute.name == "group_size"
    }
    assert done.returncode != 0 or not nodes or groups != {128}
