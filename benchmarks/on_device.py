"""The metrics that `deploy` measures on a device; `metrics.py` has the others."""

from __future__ import annotations

import math

from .conditions import DEVICE, ENGINE
from .metric import Metric, bytes_metric

__all__ = ["DEVICE_METRICS"]

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
    bytes_metric("device/ram_used_bytes/max", "highest memory use of the device", DEVICE),
    bytes_metric("device/swap_used_bytes/max", "highest swap use of the device", DEVICE),
    Metric("device/samples", "samples of tegrastats", style="whole", conditions=DEVICE),
    bytes_metric("tensorrt/size_bytes", "engine size", ENGINE),
    Metric("tensorrt/build_s", "engine build time", "lower", "s", conditions=ENGINE),
    Metric("tensorrt/ttft_ms/p50", "engine TTFT p50", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/ttft_ms/p99", "engine TTFT p99", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/prefill_tok_s", "engine prefill", "higher", "tok/s", conditions=ENGINE),
    Metric("tensorrt/decode_tok_s/p50", "engine decode", "higher", "tok/s", conditions=ENGINE),
    Metric("tensorrt/decode_ms/p50", "engine time per token", "lower", "ms", conditions=ENGINE),
    Metric("tensorrt/<phase>_queries", "timed engine runs", style="whole", conditions=ENGINE),
    Metric("tensorrt/<phase>_qps", "engine runs a second", "higher", "/s", conditions=ENGINE),
)
