"""Target profiles, and the sizes of models on them, compared with counts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from known_models import AGX, GEMMA, JETSONS, NANO, NX, QWEN3, QWEN25_3B, SMALL, changed, predicted

from edgewright.errors import Refused, UsageError
from edgewright.targets import (
    Target,
    list_targets,
    load_target,
    size_of,
    target_names,
    usable_bytes,
)
from edgewright.targets.profile import version_key


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
    prediction = predicted(target, SMALL, precision="int4")
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


def test_targets_are_data_that_can_be_edited(tmp_path: Path) -> None:
    data = load_target(NANO).model_dump(mode="json")
    file = tmp_path / "copy.yaml"
    file.write_text(yaml.safe_dump(data))
    assert isinstance(load_target(file), Target)
    assert load_target(file) == load_target(NANO)


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
    assert size_of(QWEN25_3B, "int4", float_bytes=4) == linears // 2 + linears // 128 * 4 + 4 * rest
    assert size_of(QWEN25_3B, "int8") == linears + 4 * out_features + 2 * rest
    assert size_of(QWEN25_3B, "int8-dynamic") == linears + 4 * out_features + 4 * rest


def test_an_untied_head_counts_twice_on_disk_and_once_in_traffic() -> None:
    tied = changed(QWEN3["8B"], tie_word_embeddings=True)
    assert size_of(QWEN3["8B"], "fp16") - size_of(tied, "fp16") == 2 * 151936 * 4096
    untied_rate, tied_rate = (
        predicted(load_target(AGX), c, precision="int4").decode_tok_s for c in (QWEN3["8B"], tied)
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
