"""Parsing trtexec's log: every version's log is read correctly, and no text causes a crash."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trtexec_output import ERROR, INFO, NAMES, VERSIONS, WARN, rendered, runs, same

from edgewright.errors import UsageError
from edgewright.targets.tegrastats import parse_samples
from edgewright.targets.trtexec import Log, parse_log, parse_profile, parse_times


@settings(max_examples=40, deadline=None)
@given(runs())
def test_a_log_of_every_version_reads_back(run: dict[str, Any]) -> None:
    log = parse_log(rendered(run))
    assert (log.version, log.passed) == (VERSIONS[run["code"]], run["passed"])
    assert (log.queries, log.warmups) == (run["queries"], run["warmups"])
    for got, want in (
        (log.throughput_qps, run["qps"]),
        (log.walltime_s, run["wall"]),
        (log.gpu_compute_s, run["compute"]),
    ):
        assert same(got, want)
    assert log.durations.keys() == {NAMES[name] for name in run["spreads"]}
    for name, values in run["spreads"].items():
        spread = log.durations[NAMES[name]]
        assert all(
            same(getattr(spread, key), values[key]) for key in ("min", "max", "mean", "median")
        )
        assert list(spread.percentiles) == run["shares"]
        assert all(same(spread.percentiles[share], values[share]) for share in run["shares"])
    assert [layer.name for layer in log.layers] == [layer[0] for layer in run["layers"]]
    for layer, (_, total, _, median, _) in zip(log.layers, run["layers"], strict=True):
        assert same(layer.total_ms, float(f"{total:.2f}"))
        assert (
            layer.median_ms is None if run["old"] else same(layer.median_ms, float(f"{median:.4f}"))
        )
    assert log.warnings == [
        "* GPU compute time is unstable, with coefficient of variance = 7.05215%."
    ]
    assert log.errors == []


@settings(max_examples=40, deadline=None)
@given(runs(), st.data())
def test_a_truncated_log_says_less_and_nothing_else(
    run: dict[str, Any], data: st.DataObject
) -> None:
    text = rendered(run)
    whole, part = parse_log(text), parse_log(text[: data.draw(st.integers(0, len(text)))])
    for name in (
        "version",
        "throughput_qps",
        "walltime_s",
        "gpu_compute_s",
        "queries",
        "warmups",
        "build_s",
    ):
        assert getattr(part, name) is None or same(getattr(part, name), getattr(whole, name)), name
    assert part.passed in (None, whole.passed)
    assert [layer.name for layer in part.layers] == [
        layer.name for layer in whole.layers[: len(part.layers)]
    ]
    for name, spread in part.durations.items():
        full = asdict(whole.durations[name])
        found = asdict(spread)
        assert all(
            value is None or same(value, full[key])
            for key, value in found.items()
            if key != "percentiles"
        )
        assert all(
            same(value, full["percentiles"][share]) for share, value in found["percentiles"].items()
        )


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet='[]{}":,0123456789.eEinfa msqp%&TR\n')))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert isinstance(parse_log(text), Log)
    assert isinstance(parse_samples(text), list)
    for reader in (parse_times, parse_profile):
        try:
            reader(text)
        except UsageError as error:
            assert error.hint


def test_a_failed_build_keeps_its_errors() -> None:
    text = (
        "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec "
        "--onnx=model.onnx\n"
        f"{INFO}[TRT] [MemUsageChange] Init CUDA: CPU +2, GPU +0, now: CPU 31, GPU 5210 (MiB)\n"
        f"{WARN}[TRT] Using kFASTER_DYNAMIC_SHAPES_0805 preview feature.\n"
        "NvMapMemAllocInternalTagged: 1075072515 error 12\n"
        f"{ERROR}Error[10]: Could not find any implementation for node "
        f"{{ForeignNode[lm_head/MatMul]}}.\n"
        f"{ERROR}Engine set up failed\n"
        "&&&& FAILED TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec "
        "--onnx=model.onnx\n"
    )
    log = parse_log(text)
    assert (log.version, log.passed, log.throughput_qps, log.durations) == (
        "10.3.0",
        False,
        None,
        {},
    )
    assert log.errors == [
        "Error[10]: Could not find any implementation for node {ForeignNode[lm_head/MatMul]}.",
        "Engine set up failed",
    ]
    assert len(log.warnings) == 1


def test_explanations_of_a_verbose_log_are_no_figures() -> None:
    line = (
        "[03/14/2026-15:09:26] [V] Latency: the summation of H2D Latency, GPU Compute "
        "Time, and D2H Latency. This is the latency."
    )
    assert parse_log(line + "\n[I] Engine built in 41.5 sec.\n") == Log(build_s=41.5)


@pytest.mark.parametrize(
    "text",
    [
        "&&&& RUNNING TensorRT.trtexec # ./trtexec --onnx=a\n",
        "&&&& RUNNING TensorRT.trtexec [TensorRT v7]\n",
    ],
)
def test_a_banner_without_a_version_has_none(text: str) -> None:
    assert parse_log(text).version is None
