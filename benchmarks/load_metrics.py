"""The metrics of a server under a load: at a concurrency, or at a rate of arrivals.

`benchmarks/endpoint/timing.py` has the definitions. The load is a part of the name:
`ttft_ms/p50/concurrency4`, `output_tok_s/rate2.5`.
"""

from __future__ import annotations

from collections.abc import Iterable

from .metric import Metric
from .metric_conditions import LOAD

__all__ = ["LOAD_METRICS", "LOAD_PATTERN", "loads_of"]

LOAD_PATTERN = "<load:concurrency[0-9]+|rate[0-9.e+-]+|rateinf>"
SHARES = (50, 90, 99)
TIMES = {
    "ttft_ms": "TTFT",
    "itl_ms": "inter-token latency",
    "tpot_ms": "time per output token",
    "e2e_ms": "end-to-end latency",
}
RATES = {
    "output_tok_s": ("output", "tok/s"),
    "requests_s": ("requests", "/s"),
}
FAILURES = Metric(
    f"failed_requests/{LOAD_PATTERN}",
    "failed requests under a load",
    "lower",
    style="whole",
    conditions=LOAD,
)
LOAD_METRICS = (
    *(
        Metric(
            f"{kind}/p{share}/{LOAD_PATTERN}",
            f"{label} p{share} under a load",
            "lower",
            "ms",
            conditions=LOAD,
        )
        for kind, label in TIMES.items()
        for share in SHARES
    ),
    *(
        Metric(f"{kind}/{LOAD_PATTERN}", f"{label} under a load", "higher", unit, conditions=LOAD)
        for kind, (label, unit) in RATES.items()
    ),
    FAILURES,
)


def loads_of(names: Iterable[str]) -> list[str]:
    """The loads in the names of metrics, each once, in their order."""
    found = (FAILURES.parts(name) for name in names)
    return [parts["load"] for parts in found if parts]
