"""Convert what a bundle measured on a device into metrics by their ledger names.

The device sends raw text (of trtexec and tegrastats), because a bundle contains no parsers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..benchmarks.latency.latency import round_metrics
from ..benchmarks.latency.worker import Round
from .tegrastats import parse_samples, summarize
from .trtexec import parse_log, parse_profile, parse_times

__all__ = ["bench_metrics"]

KEPT_LAYERS = 20
"""How many of the engine's slowest layers the ledger keeps."""


def bench_metrics(
    report: Mapping[str, Any], manifest: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of one `run.sh bench`.

    Args:
        report: the JSON document that `run.sh bench` printed.
        manifest: the bundle's `bundle.json`.

    Returns:
        The metrics, and details: `latency` (the shape of the rounds) and, if there is an engine,
        `prefill_layers` and `decode_layers`, its slowest layers.
    """
    metrics = round_metrics([Round(**timed) for timed in report["rounds"]], report["prompt"], 1)
    metrics |= {
        "load_s": report["load_s"],
        "peak_rss_bytes": max(report["peaks"].values()),
        "size_bytes": sum(
            entry["size"] for name, entry in manifest["files"].items() if ".onnx" in name
        ),
    }
    if samples := parse_samples(report["tegrastats"]):
        metrics |= summarize(samples)
    details: dict[str, Any] = {"latency": _latency_shape(report)}
    for phase, texts in report["trtexec"].items():
        measured, layers = _engine_metrics(phase, texts, manifest["engine"])
        metrics |= measured
        details[f"{phase}_layers"] = layers
    return metrics, details


def _latency_shape(report: Mapping[str, Any]) -> dict[str, int]:
    """The shape of the measured rounds, in the form of a measurement's context."""
    rounds = report["rounds"]
    new_tokens = len(rounds[0]["tokens"])
    return {
        "prompt": report["prompt"],
        "new_tokens": new_tokens,
        "runs": len(rounds),
        "batch": 1,
    }


def _engine_metrics(
    phase: str, texts: Mapping[str, str], spec: Mapping[str, Any]
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What trtexec measured in one phase, and the slowest layers."""
    log = parse_log(texts["log"])
    times = parse_times(texts["times"])
    profile = parse_profile(texts["profile"])
    durations = sorted(query.compute_ms for query in times.queries)
    metrics: dict[str, float] = {}
    if durations:
        median = durations[len(durations) // 2]
        if phase == "prefill":
            metrics = {
                "tensorrt/ttft_ms/p50": median,
                "tensorrt/ttft_ms/p99": durations[int(0.99 * (len(durations) - 1))],
            }
            metrics["tensorrt/prefill_tok_s"] = spec["batch"] * spec["prompt"] / median * 1000
        else:
            metrics = {
                "tensorrt/decode_tok_s/p50": spec["batch"] / median * 1000,
                "tensorrt/decode_ms/p50": median,
            }
        metrics[f"tensorrt/{phase}_queries"] = len(durations)
    if log.throughput_qps is not None:
        metrics[f"tensorrt/{phase}_qps"] = log.throughput_qps
    slowest = sorted(profile.layers, key=lambda layer: -layer.total_ms)[:KEPT_LAYERS]
    return metrics, [
        {"name": layer.name, "average_ms": layer.average_ms, "percent": layer.percent}
        for layer in slowest
    ]
