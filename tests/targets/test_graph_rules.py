"""Rules of TensorRT releases on ONNX nodes, and the parser's messages, through `targets check`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgewright.export.onnx.export import export_onnx
from edgewright.targets.graph_rules import check_graph, graph_violations
from edgewright.targets.profile import load_target

Cli = Callable[..., tuple[int, str, str]]
MakeModel = Callable[..., Path]
NANO = "jetson-orin-nano-8gb"


def graph(*nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """A model of these nodes; constants are arrays, or tensors already."""
    made = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(value, name)
        for name, value in constants.items()
    ]
    return helper.make_model(helper.make_graph(list(nodes), "g", [], [], made))


def int4(name: str, *dims: int) -> TensorProto:
    return helper.make_tensor(
        name, TensorProto.INT4, dims, np.zeros(int(np.prod(dims)), np.int8).tolist()
    )


def reasons(model: onnx.ModelProto, tensorrt: str) -> str:
    return "; ".join(f"{problem.op} {problem.reason}" for problem in check_graph(model, tensorrt))


NORM = helper.make_node("LayerNormalization", ["x", "w"], ["y"], name="norm")
DEQUANTIZE = helper.make_node(
    "DequantizeLinear", ["w", "s"], ["y"], name="dq", axis=0, block_size=32
)


@pytest.mark.parametrize(
    ("model", "refusing", "taking", "word"),
    [
        (graph(NORM), ["8.5.2"], ["8.6", "10.3.0"], "needs TensorRT 8.6"),
        (
            graph(helper.make_node("Attention", ["q", "k", "v"], ["y"])),
            ["10.3.0", "10.13.3"],
            ["10.16.1"],
            "10.14",
        ),
        (
            graph(helper.make_node("MatMulInteger", ["x", "w"], ["y"])),
            ["8.5.2", "10.16.1", "11.1"],
            [],
            "cannot be imported by any TensorRT",
        ),
        (
            graph(helper.make_node("MatMulNBits", ["x", "w"], ["y"], domain="com.microsoft")),
            ["11.1"],
            [],
            "domain com.microsoft",
        ),
        (
            graph(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.UINT8)),
            ["10.3.0"],
            [],
            "UINT8",
        ),
        (graph(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT8)), [], ["10.3.0"], ""),
        (
            graph(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)),
            ["8.5.2"],
            ["10.3.0"],
            "needs TensorRT 9.0",
        ),
        (
            graph(DEQUANTIZE, w=int4("w", 64, 8), s=np.ones((2, 8), np.float32)),
            ["8.6"],
            ["10.3.0"],
            "need TensorRT 10.0",
        ),
        (
            graph(DEQUANTIZE, w=int4("w", 2, 64, 8), s=np.ones((2, 2, 8), np.float32)),
            ["10.3.0"],
            ["10.7"],
            "3 dimensions",
        ),
        (
            graph(DEQUANTIZE, w=int4("w", 64, 7), s=np.ones((2, 7), np.float32)),
            ["10.16.1"],
            [],
            "must be even",
        ),
        (
            graph(DEQUANTIZE, w=int4("w", 64, 8), s=np.ones((3, 8), np.float32)),
            ["10.16.1"],
            [],
            "not a multiple of its block size",
        ),
        (
            graph(DEQUANTIZE, w=int4("w", 64, 8), s=np.ones((2, 4), np.float32)),
            ["10.16.1"],
            [],
            "more than one dimension",
        ),
        (graph(DEQUANTIZE, w=int4("w", 64, 8)), ["10.16.1"], [], "a computed scale"),
        (
            graph(
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
                s=np.float32(1),
                z=np.int8(3),
            ),
            ["8.5.2", "10.16.1"],
            [],
            "symmetric integers only",
        ),
        (
            graph(
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
                s=np.float32(1),
                z=np.int8(0),
            ),
            [],
            ["8.5.2", "11.1"],
            "",
        ),
    ],
)
def test_rules_by_release(
    model: onnx.ModelProto, refusing: list[str], taking: list[str], word: str
) -> None:
    assert all(word in reasons(model, release) for release in refusing)
    assert not any(reasons(model, release) for release in taking)


@pytest.fixture(scope="module")
def artifacts(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, source = tmp_path_factory.mktemp("artifacts"), make_model("llama")
    for name, format, precision in (
        ("fp16", "onnx", "fp16"),
        ("dynamic", "onnx", "int8-dynamic"),
        ("fused", "ort", "fp32"),
    ):
        export_onnx(source, folder / name, precision, format=format)
    return {name: folder / name for name in ("fp16", "dynamic", "fused")}


def test_what_we_export_for_tensorrt_breaks_no_rule_of_any_release(
    artifacts: dict[str, Path],
) -> None:
    assert not graph_violations(artifacts["fp16"] / "model.onnx", load_target(NANO).releases())


def test_a_graph_for_onnx_runtime_is_named_node_by_node(artifacts: dict[str, Path]) -> None:
    found = graph_violations(artifacts["fused"] / "model.onnx", load_target(NANO).releases("6.2"))
    assert {violation.severity for violation in found} == {"refuse"}
    assert any(
        "GroupQueryAttention `model.layers.0.self_attn/" in v.message
        and "com.microsoft" in v.message
        for v in found
    )


def test_check_asks_rules_and_parser_about_an_artifact(
    cli: Cli, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    code, out, _ = cli(
        "targets", "check", artifacts["fp16"], "--target", NANO, "--jetpack", "6.2", "--json"
    )
    verdict = json.loads(out)
    assert (code, verdict["format"], verdict["precision"]) == (0, "onnx", "fp16")
    assert not {violation["rule"] for violation in verdict["violations"]} & {
        "operator",
        "quantization",
        "uint8",
        "parser",
        "opset",
    }
    code, out, _ = cli("targets", "check", artifacts["dynamic"], "--target", NANO, "--json")
    rules = {
        (violation["rule"], violation["severity"]) for violation in json.loads(out)["violations"]
    }
    assert (
        code,
        {("operator", "note"), ("uint8", "note"), ("parser", "note"), ("precision", "note")}
        <= rules,
    ) == (0, True), rules
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in artifacts["fp16"].iterdir():
        (broken / file.name).write_bytes(
            b"no model" if file.name == "model.onnx" else file.read_bytes()
        )
    code, _, err = cli("targets", "check", broken, "--target", NANO)
    assert (code, "not an ONNX model" in " ".join(err.split())) == (2, True), err
