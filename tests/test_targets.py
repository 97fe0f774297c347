"""Targets: profiles, sizes, rules and predictions, against hand counts and published measurements."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from edgewright.errors import Refused, UsageError
from edgewright.targets import (
    Target,
    Violation,
    check,
    engines,
    kv_size,
    list_targets,
    load_target,
    predict,
    size_of,
    target_names,
    usable_bytes,
)  # fmt: skip
from edgewright.targets.profile import version_key
from edgewright.targets.roofline import load_fit

JETSONS = [
    "jetson-agx-orin-32gb", "jetson-agx-orin-64gb", "jetson-orin-nano-4gb", "jetson-orin-nano-8gb", "jetson-orin-nx-16gb",
    "jetson-orin-nx-8gb",
]  # fmt: skip
NANO, NX, AGX = "jetson-orin-nano-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb"


def model(kind: str, *sizes: int, tied: bool = True, **more: Any) -> dict[str, Any]:
    names = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
        "vocab_size",
    )  # fmt: skip
    return {"model_type": kind, **dict(zip(names, sizes, strict=True)), "tie_word_embeddings": tied, **more}


QWEN25_3B = model("qwen2", 2048, 36, 16, 2, 128, 11008, 151936)
QWEN3 = {
    "0.6B": model("qwen3", 1024, 28, 16, 8, 128, 3072, 151936),
    "1.7B": model("qwen3", 2048, 28, 16, 8, 128, 6144, 151936),
    "4B": model("qwen3", 2560, 36, 32, 8, 128, 9728, 151936),
    "8B": model("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, tied=False),
}
LLAMA_3B = model("llama", 3072, 28, 24, 8, 128, 8192, 128256)
SMALL = model("llama", 512, 4, 8, 2, 64, 1536, 32000)
GEMMA = model("gemma3_text", 640, 18, 4, 1, 256, 2048, 262144, sliding_window=512)


def changed(config: Mapping[str, Any], **sizes: Any) -> dict[str, Any]:
    return {**config, **sizes}


# --- profiles ---


def test_all_profiles_ship_and_load() -> None:
    assert target_names() == sorted([*JETSONS, "cpu"])
    assert [target.name for target in list_targets()] == target_names()


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_profile_agrees_with_itself(name: str) -> None:
    target = load_target(name)
    memory, compute = target.memory, target.compute
    assert target.platform.compute_capability == "8.7"
    assert target.platform.precisions == ["fp16", "int8", "int4"]
    assert target.sources and target.platform.sources
    assert memory.nominal_bytes and memory.usable_bytes
    assert memory.usable_bytes < memory.nominal_bytes
    assert int(name.rsplit("-", 1)[1].removesuffix("gb")) * 1024**3 == memory.nominal_bytes
    assert compute is not None
    peak = max(target.tflops(mode) for mode in target.power_modes)
    assert peak == pytest.approx(compute.fp16_tflops_dense, rel=0.02)
    per_clock = target.platform.int8_ops_per_sm_clock / target.platform.fp16_ops_per_sm_clock
    assert peak * per_clock == pytest.approx(compute.int8_tops_dense, rel=0.03)
    known = {release.name for release in target.platform.jetpacks}
    assert {mode.min_jetpack for mode in target.power_modes} - {None} <= known
    assert set(memory.largest_buffer_by_jetpack) <= known


def test_jetpack_releases_are_in_order_and_patch_levels_are_understood() -> None:
    target = load_target(NANO)
    versions = [version_key(release.tensorrt) for release in target.platform.jetpacks]
    assert versions == sorted(versions)
    assert target.jetpack("6.2.1").name == "6.2"
    assert target.jetpack("6.2.2").name == "6.2.2"
    with pytest.raises(UsageError, match=r"JetPack `4\.6`"):
        target.jetpack("4.6")


def test_unconfirmed_facts_are_marked() -> None:
    for name in ("jetson-orin-nano-4gb", "jetson-orin-nx-8gb", "jetson-agx-orin-32gb"):
        assert any("unconfirmed: usable memory" in note for note in load_target(name).notes)


def test_the_watt_label_is_no_order_of_clock_on_nx() -> None:
    target = load_target(NX)
    more, fewer = target.mode("25W"), target.mode("15W")
    assert (more.gpu_mhz, more.sms) == (408, 8)
    assert (fewer.gpu_mhz, fewer.sms) == (612, 4)


def test_power_modes_go_by_name() -> None:
    target = load_target(NANO)
    assert target.mode().name == "25W"
    assert target.mode("maxn_super").name == "MAXN_SUPER"
    with pytest.raises(UsageError) as error:
        target.mode("2")
    assert "MAXN_SUPER" in error.value.hint


def test_an_unknown_target_names_the_closest_and_all() -> None:
    with pytest.raises(UsageError, match="orin-nano-8g: no such target") as error:
        load_target("orin-nano-8g")
    assert "did you mean jetson-orin-nano-8gb?" in error.value.hint
    assert all(name in error.value.hint for name in target_names())


def user_profile(**changes: Any) -> dict[str, Any]:
    return {
        "name": "my-board", "platform": "jetson-orin", "memory": {"nominal_bytes": 4000000000, "usable_bytes": 3000000000},
        "default_mode": "10W", "power_modes": [{"name": "10W", "watts": 10, "gpu_mhz": 600, "sms": 4, "bandwidth_gb_s": 50}],
        **changes,
    }  # fmt: skip


def test_a_user_can_bring_a_profile(tmp_path: Path) -> None:
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(user_profile()))
    target = load_target(file)
    assert load_target(str(file)) == target
    assert target.platform == load_target(NANO).platform
    prediction = predict(target, SMALL, precision="int4")
    assert prediction.fits
    assert any("extrapolated" in note for note in prediction.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (yaml.safe_dump(user_profile(colour="red", default_mode="9W")), r"colour: Extra inputs"),
        (yaml.safe_dump(user_profile(default_mode="9W")), "`9W` is none of the power modes 10W"),
        (yaml.safe_dump(user_profile(platform="jetson-nano")), "platform `jetson-nano` is not known"),
        (yaml.safe_dump(user_profile(power_modes=[{"name": "10W", "bandwidth_gb_s": 5}])), "`sms`, or `peak_tflops`"),
        (yaml.safe_dump(user_profile(memory={"usable_bytes": -1})), r"memory\.usable_bytes"),
        ("- a list", "not a YAML mapping"),
        ("a: [", "not valid YAML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_user_profile_is_one_message(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "board.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_target(file)


def test_the_cpu_profile_asks_the_machine_for_its_memory() -> None:
    assert usable_bytes(load_target("cpu")) > 2**28


# --- sizes ---


def test_sizes_of_qwen25_3b_match_a_hand_count() -> None:
    # q and o 2048 x 2048, k and v 256 x 2048, three of 11008 x 2048; 36 layers.
    linears = 36 * (2 * 2048 * 2048 + 2 * 256 * 2048 + 3 * 11008 * 2048)
    rest = 151936 * 2048 + 36 * (2 * 2048 + 2048 + 2 * 256) + 2048  # tied table, two norms and biases a layer, last norm
    assert linears + rest == 3_085_938_688  # the parameter count on the model card: 3.09 B
    out_features = 36 * (2048 + 2 * 256 + 2048 + 2 * 11008 + 2048)
    assert size_of(QWEN25_3B, "fp16") == size_of(QWEN25_3B, "bf16") == 2 * (linears + rest)
    assert size_of(QWEN25_3B, "fp32") == 4 * (linears + rest)
    assert size_of(QWEN25_3B, "int4") == linears // 2 + linears // 128 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", 32) == linears // 2 + linears // 32 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", -1) == linears // 2 + out_features * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", float_bytes=4) == linears // 2 + linears // 128 * 2 + 4 * rest
    assert size_of(QWEN25_3B, "int8") == linears + 4 * out_features + 2 * rest
    assert size_of(QWEN25_3B, "int8-dynamic") == linears + 4 * out_features + 4 * rest


def test_an_untied_head_counts_twice_on_disk_and_once_in_traffic() -> None:
    tied = changed(QWEN3["8B"], tie_word_embeddings=True)
    assert size_of(QWEN3["8B"], "fp16") - size_of(tied, "fp16") == 2 * 151936 * 4096
    untied_rate, tied_rate = (predict(load_target(AGX), c, precision="int4").decode_tok_s for c in (QWEN3["8B"], tied))
    assert untied_rate == pytest.approx(tied_rate)


def test_kv_cache_counts_windows_once_they_are_full() -> None:
    assert kv_size(QWEN25_3B, 2048) == 2 * 36 * 2 * 128 * 2048 * 2
    assert kv_size(QWEN25_3B, 2048, 4) == 4 * kv_size(QWEN25_3B, 2048)
    full, local = 3, 15  # every sixth of 18 layers sees everything
    assert kv_size(GEMMA, 4096) == 2 * 256 * 2 * (full * 4096 + local * 512)
    assert kv_size(GEMMA, 256) == 2 * 256 * 2 * 18 * 256


def test_unknown_precisions_and_families_are_user_errors() -> None:
    with pytest.raises(UsageError, match="int3"):
        size_of(SMALL, "int3")
    with pytest.raises(Refused, match="mamba"):
        size_of(changed(SMALL, model_type="mamba"), "fp16")


# --- rules ---


def found(violations: list[Violation]) -> set[tuple[str, str]]:
    assert all(v.message and v.nearest for v in violations)
    return {(v.rule, v.severity) for v in violations}


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
        # the INT4 scheme
        ("edge-llm", "int4", {"sym": False}, {("int4-symmetric", "refuse")}),
        ("onnx", "int4", {"sym": False}, {("int4-symmetric", "refuse")}),
        ("edge-llm", "int4", {"act_order_g_idx": True}, {("int4-order", "note")}),
        ("tensorrt", "int4", {"act_order_g_idx": True}, {("int4-order", "refuse")}),
        ("edge-llm", "int4", {"group_size": 64}, {("int4-group", "refuse")}),
        ("tensorrt", "int4", {"group_size": 64}, {("int4-group", "note")}),
        ("tensorrt", "int4", {"group_size": -1}, {("int4-group", "refuse")}),
        # opsets
        ("onnx", "fp16", {"opset": 25}, {("opset", "refuse")}),
        ("onnx", "fp16", {"opset": 7}, {("opset", "refuse")}),
        ("tensorrt", "int4", {"opset": 20}, {("opset", "refuse")}),
        ("ort", "fp16", {"opset": 25}, set()),
    ],
)
def test_rules_on_jetpack_7(format_: str, precision: str, options: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    result = check(load_target(NANO), SMALL, format=format_, precision=precision, jetpack="7.2", **options)
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
def test_a_limit_of_some_jetpacks_is_a_note(jetpack: str | None, precision: str, opset: int, expected: set[tuple[str, str]]) -> None:
    result = check(load_target(AGX), SMALL, precision=precision, opset=opset, jetpack=jetpack)
    assert found(result) == expected
    if jetpack is None and expected:
        assert all("JetPack" in v.message and v.nearest.startswith("JetPack ") for v in result)


@pytest.mark.parametrize(
    ("config", "format_", "expected"),
    [
        (changed(SMALL, intermediate_size=1500), "edge-llm", {("int4-shape", "refuse"), ("int4-group", "refuse")}),
        (changed(SMALL, intermediate_size=1600), "edge-llm", {("int4-group", "refuse")}),  # 64 x 25, but not 128 x
        (changed(SMALL, intermediate_size=1500), "gguf", set()),
        (changed(SMALL, intermediate_size=1500), "ort", {("int4-group", "refuse")}),
        (changed(SMALL, head_dim=80), "edge-llm", {("attention", "refuse")}),  # 8 x 80 and 2 x 80 divide well enough
        (changed(SMALL, num_attention_heads=16, num_key_value_heads=1), "edge-llm", {("attention", "refuse")}),
        (changed(SMALL, num_attention_heads=16, num_key_value_heads=1, head_dim=128), "edge-llm", set()),
        (changed(SMALL, model_type="mistral"), "edge-llm", {("family", "refuse")}),
    ],
)
def test_shape_rules_of_int4(config: dict[str, Any], format_: str, expected: set[tuple[str, str]]) -> None:
    result = check(load_target(NANO), config, format=format_, precision="int4", jetpack="7.2")
    assert found(result) >= expected
    assert {rule for rule, _ in found(result)} <= {rule for rule, _ in expected} | {"int4-shape"}


def test_a_shape_violation_names_the_layers_and_the_width_to_take() -> None:
    odd = changed(SMALL, intermediate_size=1500)
    shape, group = check(load_target(NANO), odd, format="edge-llm", precision="int4", jetpack="7.2")
    assert "mlp.down_proj [512, 1500]" in shape.message and "mlp.gate_proj [1500, 512]" in shape.message
    assert "1536" in shape.nearest and "1472" in shape.nearest
    assert "mlp.down_proj" in group.message


def test_memory_is_refused_with_the_nearest_thing_that_fits() -> None:
    target = load_target(NANO)
    refused = [v for v in check(target, LLAMA_3B, format="gguf", precision="fp16") if v.rule == "memory"]
    assert [v.severity for v in refused] == ["refuse"]
    assert refused[0].nearest == "--precision int4"
    too_long = [v for v in check(target, LLAMA_3B, format="gguf", precision="int4", context=32768) if v.rule == "memory"]
    context = int(too_long[0].nearest.removeprefix("--context "))
    assert not check(target, LLAMA_3B, format="gguf", precision="int4", context=context)


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
def test_one_buffer_may_be_too_large(jetpack: str | None, options: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    result = check(load_target(NANO), QWEN25_3B, format="tensorrt", precision="int8", opset=18, jetpack=jetpack, **options)
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
def test_rules_on_a_cpu(format_: str, precision: str, options: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    assert found(check(load_target("cpu"), SMALL, format=format_, precision=precision, **options)) == expected


def test_refusals_come_first() -> None:
    result = check(load_target(AGX), SMALL, format="onnx", precision="int4", sym=False)
    assert [v.severity for v in result] == ["refuse", "note", "note"]


def test_unknown_formats_are_user_errors() -> None:
    with pytest.raises(UsageError, match="format `tflite`"):
        check(load_target(NANO), SMALL, format="tflite", precision="fp16")


# --- predictions ---

MODES = {AGX: "MAXN", NX: "40W", NANO: "15W"}
PUBLISHED = [
    # TensorRT-Edge-LLM 0.9.0, INT4, batch 1, answers to ~60 tokens: model, target, decode tokens a second
    # https://nvidia.github.io/TensorRT-Edge-LLM/0.9.1/user_guide/performance/performance-benchmarks.html
    ("0.6B", AGX, 186.4), ("1.7B", AGX, 98.6), ("4B", AGX, 53.1), ("8B", AGX, 32.5), ("0.6B", NX, 117.4), ("1.7B", NX, 60.4),
    ("4B", NX, 31.6), ("8B", NX, 19.0), ("0.6B", NANO, 72.8), ("1.7B", NANO, 37.4),
]  # fmt: skip
LATER = [
    # Version 0.10.0, which the fit has not seen, with 2,048 tokens in the cache: decode tokens a second, prefill ms
    # https://nvidia.github.io/TensorRT-Edge-LLM/0.10.0/user_guide/performance/performance-benchmarks.html
    ("0.6B", AGX, 162.5, 118.5), ("0.6B", NX, 98.9, 269), ("0.6B", NANO, 61.0, 445), ("1.7B", AGX, 89.5, 308),
    ("1.7B", NX, 52.2, 674), ("1.7B", NANO, 32.3, 1021), ("4B", AGX, 50.7, 762), ("4B", NX, 29.2, 1880),
    ("8B", AGX, 30.6, 1384), ("8B", NX, 17.5, 2944),
]  # fmt: skip


def test_published_decode_rates_are_inside_the_band() -> None:
    inside = 0
    for size, name, rate in PUBLISHED:
        p = predict(load_target(name), QWEN3[size], precision="int4", context=317, power_mode=MODES[name])
        assert p.decode_tok_s is not None and p.band is not None and p.band < 0.1
        inside += abs(p.decode_tok_s / rate - 1) <= p.band
    assert inside >= 0.9 * len(PUBLISHED)


def test_a_later_release_that_the_fit_has_not_seen_is_predicted() -> None:
    decode, first = [], []
    for size, name, rate, prefill in LATER:
        p = predict(load_target(name), QWEN3[size], precision="int4", power_mode=MODES[name])
        assert p.decode_tok_s is not None and p.ttft_ms is not None
        decode.append(abs(p.decode_tok_s / rate - 1))
        first.append(abs(p.ttft_ms / prefill - 1))
    assert sorted(decode)[len(decode) // 2] < 0.1 and max(decode) < 0.16
    assert sorted(first)[len(first) // 2] < 0.1 and max(first) < 0.35


def test_published_memory_is_predicted() -> None:
    # Same tables: peak GPU memory in MB at batch 1; they do not state how much cache was reserved, the fit found 2,560 tokens.
    for size, name, peak in (("0.6B", AGX, 1931), ("1.7B", NANO, 3234), ("4B", NX, 4921), ("8B", NX, 7880)):
        p = predict(load_target(name), QWEN3[size], precision="int4", context=2560)
        assert p.total_bytes == pytest.approx(peak * 1e6, rel=0.08)


def test_low_bits_help_less_than_their_bytes() -> None:
    # Published for a 3B on AGX Orin: fp16 27.2, int8 45.2, int4 71.8 tokens a second.
    for precision, rate in (("fp16", 27.2), ("int8", 45.2), ("int4", 71.8)):
        p = predict(load_target(AGX), QWEN25_3B, precision=precision, context=512, power_mode="MAXN")
        assert p.decode_tok_s == pytest.approx(rate, rel=0.12)


@pytest.mark.parametrize("name", target_names())
def test_predictions_move_the_right_way(name: str) -> None:
    target = load_target(name)
    base = predict(target, QWEN3["0.6B"], precision="int4")
    longer = predict(target, QWEN3["0.6B"], precision="int4", context=8192, prompt=8192)
    wider = predict(target, QWEN3["0.6B"], precision="int4", batch=8)
    assert base.total_bytes == base.weight_bytes + base.kv_bytes + base.runtime_bytes
    assert longer.kv_bytes == 4 * base.kv_bytes and wider.kv_bytes == 8 * base.kv_bytes
    assert base.decode_tok_s and longer.decode_tok_s and wider.decode_tok_s
    assert base.ttft_ms and longer.ttft_ms and wider.ttft_ms
    assert longer.decode_tok_s < base.decode_tok_s < wider.decode_tok_s < 8 * base.decode_tok_s
    assert 4 * base.ttft_ms * 0.9 < longer.ttft_ms and base.ttft_ms < wider.ttft_ms
    for mode in target.power_modes:
        faster = predict(target, QWEN3["0.6B"], precision="int4", power_mode=mode.name).decode_tok_s
        assert faster is not None
        assert faster * size_of(QWEN3["0.6B"], "int4") < mode.bandwidth_gb_s * 1e9  # nothing beats the memory


def test_energy_is_given_where_a_label_is() -> None:
    p = predict(load_target(NANO), SMALL, precision="int4", power_mode="15W")
    assert set(p.tokens_per_joule) == {"7W", "15W", "25W"}
    assert p.decode_tok_s is not None
    assert p.tokens_per_joule["15W"] == pytest.approx(p.decode_tok_s / 15)
    assert predict(load_target("cpu"), SMALL, precision="int4").tokens_per_joule == {}


def test_a_cpu_graph_keeps_embedding_and_cache_in_float32() -> None:
    p = predict(load_target("cpu"), QWEN25_3B, precision="int4")
    assert p.weight_bytes == size_of(QWEN25_3B, "int4", float_bytes=4)
    assert p.kv_bytes == kv_size(QWEN25_3B, 2048, element_bytes=4)
    assert p.engine == "onnxruntime"


def test_what_the_gpu_cannot_run_gets_no_speed() -> None:
    p = predict(load_target(NANO), SMALL, precision="int8-dynamic")
    assert (p.decode_tok_s, p.ttft_ms, p.band, p.tokens_per_joule) == (None, None, None, {})
    assert any("no speed" in note for note in p.notes)


def test_the_band_widens_where_nothing_was_measured() -> None:
    target = load_target(AGX)
    known, new = (predict(target, SMALL, precision="int4", power_mode=mode) for mode in ("MAXN", "30W"))
    assert known.band is not None and new.band is not None and known.band < new.band
    assert any("extrapolated" in note for note in new.notes) and not any("extrapolated" in note for note in known.notes)


def test_engines_are_checked_and_the_prompt_is_cut_to_the_context() -> None:
    target = load_target(NANO)
    assert engines(target)[0] == "edge-llm"
    assert set(engines(target)) | {"onnxruntime"} == set(load_fit().engines)
    with pytest.raises(UsageError, match="engine `mlc`"):
        predict(target, SMALL, precision="int4", engine="mlc")
    assert predict(target, SMALL, precision="int4", engine="vllm").ttft_ms is None
    assert predict(target, SMALL, precision="int4", context=128).prompt == 128
    with pytest.raises(UsageError, match="at least 1"):
        predict(target, SMALL, precision="int4", batch=0)


def test_a_prediction_is_json() -> None:
    p = predict(load_target(NANO), SMALL, precision="int4")
    assert json.loads(json.dumps(p.to_dict()))["weight_bytes"] == p.weight_bytes
    assert set(p.to_dict()) == {field.name for field in dataclasses.fields(p)}


# --- the fit ---


@pytest.fixture(scope="module")
def fitter() -> ModuleType:
    return pytest.importorskip("edgewright.perf.fit_estimator", reason="perf/ is not part of the wheel")


def test_the_fit_beats_the_naive_rule_on_models_left_out() -> None:
    errors = load_fit().engines["edge-llm"].errors
    held_out, naive = errors["decode_leave_one_model_out"], errors["decode_naive"]
    assert held_out is not None and naive is not None and held_out < naive / 2


def test_the_fit_finds_the_coefficients_that_made_the_data(fitter: ModuleType) -> None:
    terms = np.random.default_rng(0).uniform(0.1, 1.0, (40, 4))
    truth = np.array([1.2, 7.0, 0.0, 0.5])
    floors = np.array([1.0, 0.0, 0.0, 0.0])
    assert fitter.least_squares(terms, terms @ truth, floors) == pytest.approx(truth, abs=1e-9)
    assert (fitter.least_squares(terms, terms @ np.array([0.5, 1.0, 1.0, 1.0]), floors) >= floors).all()


def test_rows_are_read_with_their_unstated_context(fitter: ModuleType, tmp_path: Path) -> None:
    head = "device,power_mode,engine,model,params_b,quant,bits,weight_file_gb,context_or_prompt_tokens,decode_tok_s,ttft_ms,notes"
    file = tmp_path / "rows.csv"
    file.write_text(
        f"{head}\n"
        "Jetson AGX Orin 64GB,unspecified,TensorRT Edge-LLM 0.9.0,Qwen3-8B,8,INT4,4,,488,160,,batch=8;kind=LLM;prefill_ms=5\n"
        "Jetson Orin Nano 8GB Super,7W (id 3),llama.cpp CUDA,Qwen3-0.6B,0.6,Q8_0,8,0.61,2048,14,2875,\n"
        "Jetson AGX Orin 64GB,MAXN,TensorRT Edge-LLM 0.9.0,Qwen3-8B,8,INT4,4,,61,59,,batch=1;mode=EAGLE3\n"
        "Raspberry Pi 5,,llama.cpp,Qwen3-8B,8,Q4,4,,61,1,,\n"
    )
    batched, small = fitter.load_rows(file)
    assert (batched.target, batched.mode, batched.context, batched.batch) == (AGX, "MAXN", 61 + 256, 8)
    assert batched.step_s == pytest.approx(8 / 160) and batched.prefill_s is None
    assert (small.mode, small.precision, small.read_bytes, small.prefill_s) == ("7W", "int8", 610_000_000, 2.875)


def test_targets_are_data_that_can_be_edited(tmp_path: Path) -> None:
    data = load_target(NANO).model_dump(mode="json")
    file = tmp_path / "copy.yaml"
    file.write_text(yaml.safe_dump(data))
    assert isinstance(load_target(file), Target)
    assert load_target(file) == load_target(NANO)
