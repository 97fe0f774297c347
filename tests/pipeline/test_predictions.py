"""Predictions of memory and speed, against published measurements and by direction."""

from __future__ import annotations

import dataclasses
import json

import pytest
from known_models import AGX, NANO, NX, QWEN3, QWEN25_3B, SMALL, predicted

from edgewright.errors import UsageError
from edgewright.targets import (
    Workload,
    engines,
    load_target,
    longest_context,
    size_of,
    target_names,
)
from edgewright.targets.roofline import load_fit

MODES = {AGX: "MAXN", NX: "40W", NANO: "15W"}
PUBLISHED = [
    # TensorRT-Edge-LLM 0.9.0, INT4, batch 1, answers of ~60 tokens:
    # model, target, decode tokens per second
    # https://nvidia.github.io/TensorRT-Edge-LLM/0.9.1/
    # user_guide/performance/performance-benchmarks.html
    ("0.6B", AGX, 186.4),
    ("1.7B", AGX, 98.6),
    ("4B", AGX, 53.1),
    ("8B", AGX, 32.5),
    ("0.6B", NX, 117.4),
    ("1.7B", NX, 60.4),
    ("4B", NX, 31.6),
    ("8B", NX, 19.0),
    ("0.6B", NANO, 72.8),
    ("1.7B", NANO, 37.4),
]
LATER = [
    # Version 0.10.0, which the fit has not seen, with 2,048 tokens in the cache:
    # decode tokens per second, prefill ms
    # https://nvidia.github.io/TensorRT-Edge-LLM/0.10.0/
    # user_guide/performance/performance-benchmarks.html
    ("0.6B", AGX, 162.5, 118.5),
    ("0.6B", NX, 98.9, 269),
    ("0.6B", NANO, 61.0, 445),
    ("1.7B", AGX, 89.5, 308),
    ("1.7B", NX, 52.2, 674),
    ("1.7B", NANO, 32.3, 1021),
    ("4B", AGX, 50.7, 762),
    ("4B", NX, 29.2, 1880),
    ("8B", AGX, 30.6, 1384),
    ("8B", NX, 17.5, 2944),
]


def test_published_decode_rates_are_inside_the_band() -> None:
    inside = 0
    for size, name, rate in PUBLISHED:
        p = predicted(
            load_target(name), QWEN3[size], precision="int4", context=317, power_mode=MODES[name]
        )
        assert p.decode_tok_s is not None and p.band is not None and p.band < 0.15
        inside += abs(p.decode_tok_s / rate - 1) <= p.band
    assert inside >= 0.9 * len(PUBLISHED)


def test_a_later_release_that_the_fit_has_not_seen_is_predicted() -> None:
    decode = []
    first = []
    for size, name, rate, prefill in LATER:
        p = predicted(load_target(name), QWEN3[size], precision="int4", power_mode=MODES[name])
        assert p.decode_tok_s is not None and p.ttft_ms is not None
        decode.append(abs(p.decode_tok_s / rate - 1))
        first.append(abs(p.ttft_ms / prefill - 1))
    assert sorted(decode)[len(decode) // 2] < 0.1 and max(decode) < 0.16
    assert sorted(first)[len(first) // 2] < 0.1 and max(first) < 0.35


def test_published_memory_is_predicted() -> None:
    # Same tables: peak GPU memory in MB at batch 1. They do not state the size of the cache;
    # the fit found 2,560 tokens.
    for size, name, peak in (
        ("0.6B", AGX, 1931),
        ("1.7B", NANO, 3234),
        ("4B", NX, 4921),
        ("8B", NX, 7880),
    ):
        p = predicted(load_target(name), QWEN3[size], precision="int4", context=2560)
        assert p.total_bytes == pytest.approx(peak * 1e6, rel=0.08)


def test_low_bits_help_less_than_their_bytes() -> None:
    # Published for a 3B on AGX Orin: fp16 27.2, int8 45.2, int4 71.8 tokens a second.
    for precision, rate in (("fp16", 27.2), ("int8", 45.2), ("int4", 71.8)):
        p = predicted(
            load_target(AGX), QWEN25_3B, precision=precision, context=512, power_mode="MAXN"
        )
        assert p.decode_tok_s == pytest.approx(rate, rel=0.12)


@pytest.mark.parametrize("name", target_names())
def test_predictions_move_the_right_way(name: str) -> None:
    target = load_target(name)
    base = predicted(target, QWEN3["0.6B"], precision="int4")
    longer = predicted(target, QWEN3["0.6B"], precision="int4", context=8192, prompt=8192)
    wider = predicted(target, QWEN3["0.6B"], precision="int4", batch=8)
    assert base.total_bytes == base.weight_bytes + base.kv_bytes + base.runtime_bytes
    assert longer.kv_bytes == 4 * base.kv_bytes and wider.kv_bytes == 8 * base.kv_bytes
    assert base.decode_tok_s and longer.decode_tok_s and wider.decode_tok_s
    assert base.ttft_ms and longer.ttft_ms and wider.ttft_ms
    assert longer.decode_tok_s < base.decode_tok_s < wider.decode_tok_s < 8 * base.decode_tok_s
    assert 4 * base.ttft_ms * 0.9 < longer.ttft_ms and base.ttft_ms < wider.ttft_ms
    for mode in target.power_modes:
        faster = predicted(
            target, QWEN3["0.6B"], precision="int4", power_mode=mode.name
        ).decode_tok_s
        assert faster is not None
        # No prediction is faster than the memory allows.
        assert faster * size_of(QWEN3["0.6B"], "int4") < mode.bandwidth_gb_s * 1e9


def test_energy_is_given_where_a_label_is() -> None:
    p = predicted(load_target(NANO), SMALL, precision="int4", power_mode="15W")
    assert set(p.tokens_per_joule) == {"7W", "15W", "25W"}
    assert p.decode_tok_s is not None
    assert p.tokens_per_joule["15W"] == pytest.approx(p.decode_tok_s / 15)
    assert predicted(load_target("cpu"), SMALL, precision="int4").tokens_per_joule == {}


def test_a_cpu_graph_keeps_embedding_and_cache_in_float32() -> None:
    p = predicted(load_target("cpu"), QWEN25_3B, precision="int4")
    assert p.weight_bytes == size_of(QWEN25_3B, "int4", float_bytes=4)
    assert p.kv_bytes == QWEN25_3B.state_bytes(2048, element_bytes=4)
    assert p.engine == "onnxruntime"


def test_what_the_gpu_cannot_run_gets_no_speed() -> None:
    p = predicted(load_target(NANO), SMALL, precision="int8-dynamic")
    assert (p.decode_tok_s, p.ttft_ms, p.band, p.tokens_per_joule) == (None, None, None, {})
    assert any("no speed" in note for note in p.notes)


def test_the_band_widens_where_nothing_was_measured() -> None:
    target = load_target(AGX)
    known, new = (
        predicted(target, SMALL, precision="int4", power_mode=mode) for mode in ("MAXN", "30W")
    )
    assert known.band is not None and new.band is not None and known.band < new.band
    assert any("extrapolated" in note for note in new.notes) and not any(
        "extrapolated" in note for note in known.notes
    )


def test_engines_are_checked_and_the_prompt_is_cut_to_the_context() -> None:
    target = load_target(NANO)
    assert engines(target)[0] == "edge-llm"
    # all engines share `other`; 1-bit kernels take weights that no precision of ours has
    assert set(engines(target)) | {"onnxruntime", "other", "llama.cpp-lowbit"} == set(
        load_fit().engines
    )
    with pytest.raises(UsageError, match="engine `exllama`"):
        predicted(target, SMALL, precision="int4", engine="exllama")
    assert predicted(target, SMALL, precision="int4", engine="vllm").ttft_ms is None
    assert predicted(target, SMALL, precision="int4", context=128).prompt == 128
    with pytest.raises(UsageError, match="at least 1"):
        predicted(target, SMALL, precision="int4", batch=0)


def test_a_prediction_is_json() -> None:
    p = predicted(load_target(NANO), SMALL, precision="int4")
    assert json.loads(json.dumps(p.to_dict()))["weight_bytes"] == p.weight_bytes
    assert set(p.to_dict()) == {field.name for field in dataclasses.fields(p)}


def test_an_engine_reads_weights_as_it_stores_them() -> None:
    fit = load_fit().engines
    assert fit["llama.cpp"].stored_bits == {"int4": 4.85, "int8": 8.5, "head": 6.56}
    target = load_target(AGX)
    rates = {
        name: predicted(
            target, QWEN25_3B, precision="int4", engine=name, power_mode="MAXN"
        ).decode_tok_s
        for name in engines(target)
    }
    assert rates["edge-llm"] and rates["llama.cpp"] and rates["mlc"]
    # MLC quantizes the head of 152k tokens.
    assert rates["llama.cpp"] < rates["edge-llm"] < rates["mlc"]


def test_the_longest_context_is_the_last_that_fits() -> None:
    target = load_target(NANO)
    longest = longest_context(target, QWEN25_3B, Workload("int4"))
    assert predicted(target, QWEN25_3B, precision="int4", context=longest, prompt=1).fits
    assert not predicted(target, QWEN25_3B, precision="int4", context=longest + 64, prompt=1).fits
    assert (
        longest_context(
            target, QWEN25_3B.with_config(max_position_embeddings=4096), Workload("int4")
        )
        == 4096
    )
    assert longest_context(target, QWEN3["8B"], Workload("fp16")) == 0
