"""Target rules: which models, precisions and shapes a device refuses, and what it notes."""

from __future__ import annotations

from typing import Any

import pytest
from known_models import (
    AGX,
    LLAMA_3B,
    NANO,
    QWEN25_3B,
    SMALL,
    changed,
    predicted,
    violations,
)

from edgewright.errors import UsageError
from edgewright.targets import Violation, Workload, load_target, longest_context


def found(listed: list[Violation]) -> set[tuple[str, str]]:
    assert all(v.message and v.nearest for v in listed)
    return {(v.rule, v.severity) for v in listed}


@pytest.mark.parametrize(
    ("format_", "precision", "options", "expected"),
    [
        # what goes without a word on JetPack 7.2
        ("edge-llm", "int4", {}, set()),
        ("edge-llm", "fp16", {}, set()),
        ("tensorrt", "fp16", {}, set()),
        ("tensorrt", "int8", {}, set()),
        ("onnx", "int4", {}, set()),
        ("ort", "int4", {"sym": False, "act_order_g_idx": True}, set()),
        ("gguf", "int4", {"sym": False, "group_size": 32}, set()),
        ("triton", "fp16", {"opset": 24}, set()),
        # precisions
        ("tensorrt", "int8-dynamic", {}, {("precision", "refuse")}),
        ("edge-llm", "int8-dynamic", {}, {("precision", "refuse")}),
        ("gguf", "int8-dynamic", {}, {("precision", "refuse")}),
        ("onnx", "int8-dynamic", {}, {("precision", "note")}),
        ("ort", "int8-dynamic", {}, {("precision", "note")}),
        ("tensorrt", "fp8", {}, {("precision", "refuse")}),
        ("edge-llm", "int8", {}, {("precision", "note")}),
        ("tensorrt", "fp32", {}, {("precision", "note")}),
        ("edge-llm", "bf16", {}, {("precision", "note")}),
        ("tensorrt", "bf16", {}, set()),
        ("triton", "bf16", {}, {("precision", "note")}),
        # the INT4 scheme
        ("edge-llm", "int4", {"sym": False}, {("int4-symmetric", "refuse")}),
        ("onnx", "int4", {"sym": False}, {("int4-symmetric", "refuse")}),
        ("edge-llm", "int4", {"act_order_g_idx": True}, {("int4-order", "note")}),
        ("tensorrt", "int4", {"act_order_g_idx": True}, {("int4-order", "refuse")}),
        ("edge-llm", "int4", {"group_size": 64}, {("int4-group", "refuse")}),
        ("tensorrt", "int4", {"group_size": 64}, {("int4-group", "note")}),
        ("tensorrt", "int4", {"group_size": -1}, {("int4-group", "refuse")}),
        # the KV cache
        ("tensorrt", "fp16", {"kv_cache": "int8"}, set()),
        ("ort", "int4", {"kv_cache": "int8"}, set()),
        ("gguf", "int4", {"kv_cache": "int8"}, {("kv-cache", "refuse")}),
        ("edge-llm", "int4", {"kv_cache": "int8"}, {("kv-cache", "refuse")}),
        # opsets
        ("onnx", "fp16", {"opset": 25}, {("opset", "refuse")}),
        ("onnx", "fp16", {"opset": 7}, {("opset", "refuse")}),
        ("tensorrt", "int4", {"opset": 20}, {("opset", "refuse")}),
        ("ort", "fp16", {"opset": 25}, set()),
    ],
)
def test_rules_on_jetpack_7(
    format_: str, precision: str, options: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    result = violations(
        load_target(NANO), SMALL, format=format_, precision=precision, jetpack="7.2", **options
    )
    assert found(result) == expected


@pytest.mark.parametrize(
    ("jetpack", "precision", "opset", "expected"),
    [
        ("6.2", "int4", 21, {("opset", "refuse")}),
        ("6.2", "fp16", 20, set()),
        ("6.0", "fp16", 20, {("opset", "refuse")}),
        ("5.1", "fp16", 17, set()),
        ("5.1", "int4", 21, {("opset", "refuse"), ("int4-tensorrt", "refuse")}),
        (None, "fp16", 20, {("opset", "note")}),
        (None, "fp16", 17, set()),
        (None, "int4", 21, {("opset", "note"), ("int4-tensorrt", "note")}),
    ],
)
def test_a_limit_of_some_jetpacks_is_a_note(
    jetpack: str | None, precision: str, opset: int, expected: set[tuple[str, str]]
) -> None:
    result = violations(load_target(AGX), SMALL, precision=precision, opset=opset, jetpack=jetpack)
    assert found(result) == expected
    if jetpack is None and expected:
        assert all("JetPack" in v.message and v.nearest.startswith("JetPack ") for v in result)


@pytest.mark.parametrize(
    ("config", "format_", "expected"),
    [
        (
            changed(SMALL, intermediate_size=1500),
            "edge-llm",
            {("int4-shape", "refuse"), ("int4-group", "refuse")},
        ),
        (
            changed(SMALL, intermediate_size=1600),
            "edge-llm",
            {("int4-group", "refuse")},
        ),  # 64 x 25, but not 128 x
        (changed(SMALL, intermediate_size=1500), "gguf", {("block", "refuse")}),
        (changed(SMALL, intermediate_size=1504), "gguf", set()),
        (changed(SMALL, intermediate_size=1500), "ort", {("int4-group", "refuse")}),
        (
            changed(SMALL, head_dim=80),
            "edge-llm",
            {("attention", "refuse")},
        ),  # 8 x 80 and 2 x 80 divide well enough
        (
            changed(SMALL, num_attention_heads=16, num_key_value_heads=1),
            "edge-llm",
            {("attention", "refuse")},
        ),
        (
            changed(SMALL, num_attention_heads=16, num_key_value_heads=1, head_dim=128),
            "edge-llm",
            set(),
        ),
        (changed(SMALL, model_type="mistral"), "edge-llm", {("family", "refuse")}),
    ],
)
def test_shape_rules_of_int4(
    config: dict[str, Any], format_: str, expected: set[tuple[str, str]]
) -> None:
    result = violations(load_target(NANO), config, format=format_, precision="int4", jetpack="7.2")
    assert found(result) >= expected
    assert {rule for rule, _ in found(result)} <= {rule for rule, _ in expected} | {"int4-shape"}


def test_a_shape_violation_names_the_layers_and_the_width_to_take() -> None:
    odd = changed(SMALL, intermediate_size=1500)
    shape, group = violations(
        load_target(NANO), odd, format="edge-llm", precision="int4", jetpack="7.2"
    )
    assert (
        "mlp.down_proj [512, 1500]" in shape.message
        and "mlp.gate_proj [1500, 512]" in shape.message
    )
    assert "1536" in shape.nearest and "1472" in shape.nearest
    assert "mlp.down_proj" in group.message


def test_memory_is_refused_with_the_nearest_thing_that_fits() -> None:
    target = load_target(NANO)
    refused = [
        v
        for v in violations(target, LLAMA_3B, format="gguf", precision="fp16")
        if v.rule == "memory"
    ]
    assert [v.severity for v in refused] == ["refuse"]
    assert refused[0].nearest == "--precision int4"
    too_long = [
        v
        for v in violations(target, LLAMA_3B, format="gguf", precision="int4", context=32768)
        if v.rule == "memory"
    ]
    context = int(too_long[0].nearest.removeprefix("--context "))
    assert not violations(target, LLAMA_3B, format="gguf", precision="int4", context=context)
    longest = longest_context(target, LLAMA_3B, Workload("int4"))
    long = {"format": "ort", "precision": "int4", "context": longest + 1024}
    nearest = {v.rule: v.nearest for v in violations(target, LLAMA_3B, **long)}
    assert nearest["memory"] == "--kv-cache int8"
    rounded = violations(target, LLAMA_3B, **long, kv_cache="int8")
    assert "memory" not in {v.rule for v in rounded}


@pytest.mark.parametrize(
    ("target", "format_", "precision", "said"),
    [
        (NANO, "tensorrt", "int4", True),  # 2.4 GB of weights, 7.1 to 9.4 GB to build, 5.0 GB free
        (NANO, "edge-llm", "int4", True),
        (NANO, "gguf", "int4", False),  # llama.cpp builds nothing
        (NANO, "ort", "int4", False),
        (NANO, "tensorrt", "fp16", False),  # it does not even fit, which is a refusal
        (AGX, "tensorrt", "int4", False),
    ],
)
def test_an_engine_that_the_device_cannot_build_is_said(
    target: str, format_: str, precision: str, said: bool
) -> None:
    board = load_target(target)
    result = violations(board, LLAMA_3B, format=format_, precision=precision, jetpack="7.2")
    notes = [v for v in result if v.rule == "build-memory"]
    assert bool(notes) == said
    if said:
        weights = predicted(board, LLAMA_3B, precision=precision).weight_bytes
        assert f"{3 * weights / 1e9:.2f} GB to {4 * weights / 1e9:.2f} GB" in notes[0].message
        assert notes[0].severity == "note"
        assert ("--externalize-weights" in notes[0].nearest) == (format_ == "edge-llm")


def test_int4_on_jetpack_6_names_what_runs_there() -> None:
    result = violations(load_target(NANO), SMALL, format="onnx", precision="int4", jetpack="6.2")
    assert found(result) == {("opset", "refuse")}
    assert "--format edge-llm" in result[0].nearest and "--format gguf" in result[0].nearest
    for format_ in ("edge-llm", "gguf"):
        again = violations(
            load_target(NANO), SMALL, format=format_, precision="int4", jetpack="6.2"
        )
        assert not again


@pytest.mark.parametrize(
    ("jetpack", "options", "expected"),
    [
        ("6.2", {}, {("buffer", "refuse")}),
        ("6.2", {"last_logits": True}, set()),
        ("6.2", {"prompt": 512}, set()),
        ("6.2.2", {}, set()),
        (None, {}, {("buffer", "note"), ("opset", "note")}),
    ],
)
def test_one_buffer_may_be_too_large(
    jetpack: str | None, options: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    result = violations(
        load_target(NANO),
        QWEN25_3B,
        format="tensorrt",
        precision="int8",
        opset=18,
        jetpack=jetpack,
        **options,
    )
    assert found([v for v in result if v.rule != "memory"]) == expected


@pytest.mark.parametrize(
    ("format_", "precision", "options", "expected"),
    [
        ("onnx", "int8-dynamic", {}, set()),
        ("onnx", "int4", {"sym": False, "group_size": 32}, set()),
        ("onnx", "fp32", {"opset": 25}, set()),
        ("onnx", "fp16", {}, {("precision", "note")}),
        ("tensorrt", "fp32", {}, {("format", "refuse")}),
        ("edge-llm", "int4", {}, {("format", "refuse")}),
        ("onnx", "fp8", {}, {("precision", "refuse")}),
        ("onnx", "int4", {"group_size": 512}, {("int4-group", "refuse")}),
    ],
)
def test_rules_on_a_cpu(
    format_: str, precision: str, options: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    assert (
        found(violations(load_target("cpu"), SMALL, format=format_, precision=precision, **options))
        == expected
    )


def test_refusals_come_first() -> None:
    result = violations(load_target(AGX), SMALL, format="onnx", precision="int4", sym=False)
    assert [v.severity for v in result] == ["refuse", "note", "note"]


def test_unknown_formats_are_user_errors() -> None:
    with pytest.raises(UsageError, match="format `tflite`"):
        violations(load_target(NANO), SMALL, format="tflite", precision="fp16")
