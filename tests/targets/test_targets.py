"""Targets: profiles, sizes and rules, against hand counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from known_models import AGX, GEMMA, JETSONS, LLAMA_3B, NANO, NX, QWEN3, QWEN25_3B, SMALL, changed

from edgewright.errors import Refused, UsageError
from edgewright.targets import (
    Target,
    Violation,
    check,
    list_targets,
    load_target,
    predict,
    size_of,
    target_names,
    usable_bytes,
)
from edgewright.targets.profile import version_key

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
        "name": "my-board",
        "platform": "jetson-orin",
        "memory": {"nominal_bytes": 4000000000, "usable_bytes": 3000000000},
        "default_mode": "10W",
        "power_modes": [
            {"name": "10W", "watts": 10, "gpu_mhz": 600, "sms": 4, "bandwidth_gb_s": 50}
        ],
        **changes,
    }


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
        (
            yaml.safe_dump(user_profile(platform="jetson-nano")),
            "platform `jetson-nano` is not known",
        ),
        (
            yaml.safe_dump(user_profile(power_modes=[{"name": "10W", "bandwidth_gb_s": 5}])),
            "`sms`, or `peak_tflops`",
        ),
        (yaml.safe_dump(user_profile(memory={"usable_bytes": -1})), r"memory\.usable_bytes"),
        ("- a list", "not a YAML mapping"),
        ("a: [", "not valid YAML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_user_profile_is_one_message(
    tmp_path: Path, text: str | None, message: str
) -> None:
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
    rest = (
        151936 * 2048 + 36 * (2 * 2048 + 2048 + 2 * 256) + 2048
    )  # tied table, two norms and biases a layer, last norm
    assert linears + rest == 3_085_938_688  # the parameter count on the model card: 3.09 B
    out_features = 36 * (2048 + 2 * 256 + 2048 + 2 * 11008 + 2048)
    assert size_of(QWEN25_3B, "fp16") == size_of(QWEN25_3B, "bf16") == 2 * (linears + rest)
    assert size_of(QWEN25_3B, "fp32") == 4 * (linears + rest)
    assert size_of(QWEN25_3B, "int4") == linears // 2 + linears // 128 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", 32) == linears // 2 + linears // 32 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", -1) == linears // 2 + out_features * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int3") == linears * 3 // 8 + linears // 128 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int2", 64) == linears // 4 + linears // 64 * 2 + 2 * rest
    assert size_of(QWEN25_3B, "int4", float_bytes=4) == linears // 2 + linears // 128 * 2 + 4 * rest
    assert size_of(QWEN25_3B, "int8") == linears + 4 * out_features + 2 * rest
    assert size_of(QWEN25_3B, "int8-dynamic") == linears + 4 * out_features + 4 * rest


def test_an_untied_head_counts_twice_on_disk_and_once_in_traffic() -> None:
    tied = changed(QWEN3["8B"], tie_word_embeddings=True)
    assert size_of(QWEN3["8B"], "fp16") - size_of(tied, "fp16") == 2 * 151936 * 4096
    untied_rate, tied_rate = (
        predict(load_target(AGX), c, precision="int4").decode_tok_s for c in (QWEN3["8B"], tied)
    )
    assert untied_rate == pytest.approx(tied_rate)


def test_kv_cache_counts_windows_once_they_are_full() -> None:
    assert QWEN25_3B.state_bytes(2048) == 2 * 36 * 2 * 128 * 2048 * 2
    assert QWEN25_3B.state_bytes(2048, 4) == 4 * QWEN25_3B.state_bytes(2048)
    full, local = 3, 15  # every sixth of 18 layers sees everything
    assert GEMMA.state_bytes(4096) == 2 * 256 * 2 * (full * 4096 + local * 512)
    assert GEMMA.state_bytes(256) == 2 * 256 * 2 * 18 * 256


def test_unknown_precisions_and_families_are_user_errors() -> None:
    with pytest.raises(UsageError, match="int5"):
        size_of(SMALL, "int5")
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
    result = check(
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
    result = check(load_target(AGX), SMALL, precision=precision, opset=opset, jetpack=jetpack)
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
        (changed(SMALL, intermediate_size=1500), "gguf", set()),
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
    result = check(load_target(NANO), config, format=format_, precision="int4", jetpack="7.2")
    assert found(result) >= expected
    assert {rule for rule, _ in found(result)} <= {rule for rule, _ in expected} | {"int4-shape"}


def test_a_shape_violation_names_the_layers_and_the_width_to_take() -> None:
    odd = changed(SMALL, intermediate_size=1500)
    shape, group = check(load_target(NANO), odd, format="edge-llm", precision="int4", jetpack="7.2")
    assert (
        "mlp.down_proj [512, 1500]" in shape.message
        and "mlp.gate_proj [1500, 512]" in shape.message
    )
    assert "1536" in shape.nearest and "1472" in shape.nearest
    assert "mlp.down_proj" in group.message


def test_memory_is_refused_with_the_nearest_thing_that_fits() -> None:
    target = load_target(NANO)
    refused = [
        v for v in check(target, LLAMA_3B, format="gguf", precision="fp16") if v.rule == "memory"
    ]
    assert [v.severity for v in refused] == ["refuse"]
    assert refused[0].nearest == "--precision int4"
    too_long = [
        v
        for v in check(target, LLAMA_3B, format="gguf", precision="int4", context=32768)
        if v.rule == "memory"
    ]
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
def test_one_buffer_may_be_too_large(
    jetpack: str | None, options: dict[str, Any], expected: set[tuple[str, str]]
) -> None:
    result = check(
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
        found(check(load_target("cpu"), SMALL, format=format_, precision=precision, **options))
        == expected
    )


def test_refusals_come_first() -> None:
    result = check(load_target(AGX), SMALL, format="onnx", precision="int4", sym=False)
    assert [v.severity for v in result] == ["refuse", "note", "note"]


def test_unknown_formats_are_user_errors() -> None:
    with pytest.raises(UsageError, match="format `tflite`"):
        check(load_target(NANO), SMALL, format="tflite", precision="fp16")


def test_targets_are_data_that_can_be_edited(tmp_path: Path) -> None:
    data = load_target(NANO).model_dump(mode="json")
    file = tmp_path / "copy.yaml"
    file.write_text(yaml.safe_dump(data))
    assert isinstance(load_target(file), Target)
    assert load_target(file) == load_target(NANO)
