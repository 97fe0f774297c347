"""Every metric, declared once: its name, label, unit, which way is better, and what must be equal.

The gate, reports, sweeps, terminal tables and model cards ask this module; none of them knows a
metric by itself. To add a metric, declare it in `METRICS` and write it where it is measured.
No torch here: a job that only compares starts at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from ..errors import UsageError, suggestion
from .answer_metrics import ANSWER_METRICS
from .lm_eval_metrics import LM_EVAL_METRICS
from .load_metrics import LOAD_METRICS
from .metric import Conditions, Metric, TerminalColumn, with_error
from .metric_conditions import (
    AGAINST_REFERENCE,
    DEVICE,
    ENGINE,
    LOADING,
    MEMORY,
    QUESTIONS,
    TARGET,
    TEXT,
    TIMING,
)

__all__ = [
    "ACCURACY",
    "CHARTS",
    "HEADLINES",
    "METRICS",
    "PREDICTED",
    "REPORT_COLUMNS",
    "TRADE_OFFS",
    "find",
    "format_value",
    "known_patterns",
    "names_of",
    "require",
    "unrecorded",
    "why_impossible",
    "why_unlike",
]


def _also_by_shape(metric: Metric) -> tuple[Metric, ...]:
    """A latency metric, and the same for other batches and prompts (`--batches`, `--prompts`)."""
    shaped = replace(
        metric,
        pattern=f"{metric.pattern}/batch<batch:[0-9]+>-prompt<prompt:[0-9]+>",
        label=f"{metric.label} at another batch or prompt",
        terminal=None,
    )
    return shaped, metric


def _percentiles(kind: str, label: str) -> list[Metric]:
    """The p90 and p99 of a time; its median is declared separately."""
    return [
        Metric(f"{kind}/p{share}", f"{label} p{share}", "lower", "ms", conditions=TIMING)
        for share in (90, 99)
    ]


def _variation(kind: str, label: str) -> Metric:
    return Metric(f"{kind}/cv", f"{label}, coefficient of variation", "lower", conditions=TIMING)


def _bytes(pattern: str, label: str, conditions: Conditions, **more: Any) -> Metric:
    return Metric(pattern, label, "lower", "MB", divisor=1e6, conditions=conditions, **more)


QUALITY_METRICS = (
    *with_error(
        Metric(
            "accuracy/<task>",
            "exact match",
            "higher",
            style="share",
            conditions=QUESTIONS,
            has_samples=True,
            default_limit={"min_ratio": 0.95},
            shows_error=True,
            terminal=TerminalColumn("exact match", ".3f"),
            hub_type="exact_match",
        )
    ),
    Metric(
        "accuracy_by_byte/<task>",
        "exact match by byte",
        "higher",
        style="share",
        conditions=QUESTIONS,
    ),
    *with_error(
        Metric(
            "perplexity/<data>",
            "perplexity",
            "lower",
            digits=4,
            low=1,
            conditions=TEXT,
            has_samples=True,
            default_limit={"max_ratio": 1.06},
            terminal=TerminalColumn("perplexity", ".4f"),
            hub_type="perplexity",
        )
    ),
    Metric(
        "kl/<data>",
        "KL",
        "lower",
        conditions=AGAINST_REFERENCE,
        terminal=TerminalColumn("KL", ".4f"),
    ),
    Metric(
        "top1_agreement/<data>",
        "top-1",
        "higher",
        style="share",
        conditions=AGAINST_REFERENCE,
        terminal=TerminalColumn("top-1", ".4f"),
    ),
    *LM_EVAL_METRICS,
)

LATENCY_METRICS = (
    *_also_by_shape(
        Metric(
            "ttft_ms/p50",
            "TTFT p50",
            "lower",
            "ms",
            conditions=TIMING,
            terminal=TerminalColumn("TTFT ms", ".1f"),
        )
    ),
    *_percentiles("ttft_ms", "TTFT"),
    _variation("ttft_ms", "TTFT"),
    *_also_by_shape(
        Metric(
            "decode_tok_s/p50",
            "decode",
            "higher",
            "tok/s",
            conditions=TIMING,
            terminal=TerminalColumn("decode tok/s", ",.0f"),
        )
    ),
    _variation("decode_tok_s", "decode"),
    *_also_by_shape(Metric("prefill_tok_s", "prefill", "higher", "tok/s", conditions=TIMING)),
    Metric("token_ms/p50", "time per token p50", "lower", "ms", conditions=TIMING),
    *_percentiles("token_ms", "time per token"),
    Metric("joules_per_token", "energy per token", "lower", "J", conditions=TIMING),
    Metric("load_s", "time to load", "lower", "s", conditions=LOADING),
)

SIZE_METRICS = (
    _bytes(
        "peak_rss_bytes",
        "peak memory",
        MEMORY,
        terminal=TerminalColumn("peak MB", ",.0f", 1e6),
    ),
    _bytes("peak_rss_bytes/<phase>", "peak memory of one phase", MEMORY),
    _bytes("size_bytes", "size", Conditions(), terminal=TerminalColumn("size MB", ",.2f", 1e6)),
    Metric(
        "parameters",
        "parameters",
        "lower",
        style="count",
        terminal=TerminalColumn("params M", ",.2f", 1e6),
    ),
    _bytes("kv_cache_bytes/<context>", "KV cache in fp16 or int8", Conditions()),
)

DEVICE_METRICS = (
    Metric("check/tokens", "tokens generated for the check", style="whole"),
    Metric(
        "check/equal", "tokens equal to those of the exporting machine", "higher", style="whole"
    ),
    Metric("check/ties", "tokens after a tie of two logits", "lower", style="whole"),
    Metric("device/power_w", "power", "lower", "W", conditions=DEVICE),
    Metric("device/power_w/max", "highest power", "lower", "W", conditions=DEVICE),
    Metric("device/gpu_mhz", "GPU clock", unit="MHz", conditions=DEVICE),
    Metric("device/emc_mhz", "memory clock", unit="MHz", conditions=DEVICE),
    Metric("device/gpu_percent", "GPU load", unit="%", high=100, conditions=DEVICE),
    Metric(
        "device/temperature_c/max",
        "highest temperature",
        "lower",
        "°C",
        low=-math.inf,
        conditions=DEVICE,
    ),
    _bytes("device/ram_used_bytes/max", "highest memory use of the device", DEVICE),
    _bytes("device/swap_used_bytes/max", "highest swap use of the device", DEVICE),
    Metric("device/samples", "samples of tegrastats", style="whole", conditions=DEVICE),
    _bytes("tensorrt/size_bytes", "engine size", ENGINE),
    Metric("tensorrt/build_s", "engine build time", "lower", "s", conditions=ENGINE),
    Metric("tensorrt/ttft_ms/p50", "engine TTFT p50", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/ttft_ms/p99", "engine TTFT p99", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/prefill_tok_s", "engine prefill", "higher", "tok/s", conditions=ENGINE),
    Metric("tensorrt/decode_tok_s/p50", "engine decode", "higher", "tok/s", conditions=ENGINE),
    Metric("tensorrt/decode_ms/p50", "engine time per token", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/<phase>_queries", "timed engine runs", style="whole", conditions=ENGINE),
    Metric("tensorrt/<phase>_qps", "engine runs a second", "higher", "/s", conditions=ENGINE),
)

PREDICTED_METRICS = (
    Metric("predicted/ttft_ms", "predicted TTFT", "lower", "ms", conditions=TARGET),
    Metric("predicted/decode_tok_s", "predicted decode", "higher", "tok/s", conditions=TARGET),
    _bytes("predicted/total_bytes", "predicted memory", TARGET),
)

PARITY_METRICS = (
    Metric("parity/max_abs_diff", "max abs diff", "lower"),
    Metric("parity/kl", "kl", "lower"),
    Metric("parity/kv_cache_kl", "kl of the int8 KV cache", "lower"),
    Metric("parity/top1_prefill", "top1 prefill", "higher", style="share"),
    Metric("parity/top1_decode", "top1 decode", "higher", style="share"),
    Metric("parity/positions", "positions", style="whole"),
    Metric("parity/decode_steps", "decode steps", style="whole"),
    Metric("parity/low_bit_nodes", "low bit nodes", style="whole"),
)

METRICS: tuple[Metric, ...] = (
    *QUALITY_METRICS,
    *LATENCY_METRICS,
    *LOAD_METRICS,
    *SIZE_METRICS,
    *ANSWER_METRICS,
    *DEVICE_METRICS,
    *PREDICTED_METRICS,
    *PARITY_METRICS,
)
"""All declarations. A name belongs to the first one whose pattern it matches."""

# Where metrics are shown, by pattern and in order

ACCURACY = "accuracy/<task>"
REPORT_COLUMNS = (
    "accuracy/<task>",
    "perplexity/<data>",
    "kl/<data>",
    "top1_agreement/<data>",
    "ttft_ms/p50",
    "decode_tok_s/p50",
    "prefill_tok_s",
    "peak_rss_bytes",
    "size_bytes",
    "parameters",
)
HEADLINES = ("size_bytes", "decode_tok_s/p50", "ttft_ms/p50", "peak_rss_bytes")
"""The cards on top of a report, after the accuracies."""
CHARTS = {
    "size_bytes": "Size",
    "ttft_ms/p50": "Time to first token",
    "decode_tok_s/p50": "Decode speed",
}
"""The bar charts of a report, with their titles."""
TRADE_OFFS = ("size_bytes", "decode_tok_s/p50")
"""What the charts set the accuracies against."""
PREDICTED = tuple(metric.pattern.removeprefix("predicted/") for metric in PREDICTED_METRICS)
"""Fields of a plan's row that a sweep takes as metrics, under `predicted/`."""


@cache
def find(name: str) -> Metric | None:
    """The declaration that a metric's name belongs to; None if there is none."""
    return next((metric for metric in METRICS if metric.parts(name) is not None), None)


def known_patterns() -> list[str]:
    """The names and patterns of all declared metrics, for messages."""
    return list(dict.fromkeys(metric.shown_pattern for metric in METRICS))


def require(name: str, where: str) -> Metric:
    """The declaration of a metric.

    Args:
        name: the metric's name.
        where: the beginning of the error message, e.g. `gate`.

    Raises:
        UsageError: no such metric is declared.
    """
    metric = find(name)
    if metric is not None:
        return metric
    patterns = known_patterns()
    of = name.partition("/")[2]  # the task or text that was meant
    near = suggestion(name, [re.sub("<.+?>", of, one) if of else one for one in patterns])
    raise UsageError(
        f"{where}: no such metric `{name}`: edgewright does not know which way is better"
        " or what makes two values comparable",
        near.strip() or f"metrics: {', '.join(patterns)}",
    )


def why_impossible(name: str, value: float) -> str:
    """Why no measurement gives this value of a metric; empty if one may.

    Of a metric that is not declared, only infinity is known to be impossible.
    """
    return (find(name) or Metric(name, name, low=-math.inf)).why_impossible(value)


def unrecorded(name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """The condition of a metric that only a candidate's context lacks; empty if there is none."""
    metric = find(name)
    return metric.unrecorded(name, candidate, baseline) if metric else ""


def why_unlike(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Why a metric with these two contexts must not be compared; empty if it may be."""
    metric = find(name)
    if metric is None:
        return f"`{name}` is not a metric that edgewright knows"
    return metric.why_unlike(name, one, other)


def format_value(name: str, value: float | None, *, unit: bool = False) -> str:
    """A value of a metric as people read it; three significant digits for an unknown metric."""
    return (find(name) or Metric(name, name)).format(value, unit=unit)


def names_of(names: Iterable[str], pattern: str) -> list[str]:
    """Those of the names that belong to a declared pattern, each once, in their order."""
    matching = (name for name in names if (metric := find(name)) and metric.pattern == pattern)
    return list(dict.fromkeys(matching))
