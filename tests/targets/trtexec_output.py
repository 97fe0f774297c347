"""Random trtexec runs for tests, and their log as each TensorRT version prints it."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

VERSIONS = {
    "v8401": "8.4.1",
    "v8502": "8.5.2",
    "v8601": "8.6.1",
    "v100300": "10.3.0",
    "v101303": "10.13.3",
    "v101601": "10.16.1",
    "v110100": "11.1.0",
}
NAMES = {
    "Latency": "latency",
    "End-to-End Host Latency": "end_to_end",
    "Enqueue Time": "enqueue",
    "H2D Latency": "h2d",
    "GPU Compute Time": "gpu_compute",
    "D2H Latency": "d2h",
}
INFO, WARN, ERROR = (f"[03/14/2026-15:09:26] [{tag}] " for tag in "IWE")

# Six significant digits, as C++ prints a float by default: 1.23457e+08 and inf included.
floats = st.one_of(st.floats(0, 1e9), st.just(math.inf), st.just(math.nan)).map(
    lambda x: float(f"{x:.6g}")
)
spans = st.one_of(
    st.floats(0, 1e5), st.just(math.inf), st.just(math.nan)
)  # a column of the table holds no more
layer_names = st.text(
    st.characters(codec="ascii", min_codepoint=33, exclude_characters="{}"), min_size=1, max_size=20
).filter(lambda s: s not in ("Total", "Layer"))


def written(value: float) -> str:
    return f"{value:.6g}"


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """What one run measured, in the manner of one version."""
    code = draw(st.sampled_from(sorted(VERSIONS)))
    old = code == "v8401"
    shares = (
        [99.0]
        if old
        else draw(st.lists(st.sampled_from([50.0, 90.0, 95.0, 99.0, 99.9]), unique=True))
    )
    names = [name for name in NAMES if old or name != "End-to-End Host Latency"]
    keys = ["min", "max", "mean", "median", *shares]
    layer = st.tuples(layer_names, spans, spans, spans, spans)
    return {
        "code": code,
        "old": old,
        "shares": shares,
        "qps": draw(floats),
        "wall": draw(floats),
        "compute": draw(floats),
        "queries": draw(st.integers(1, 10**6)),
        "warmups": draw(st.integers(0, 999)),
        "passed": draw(st.booleans()),
        "spreads": {
            name: dict(
                zip(
                    keys,
                    draw(st.lists(floats, min_size=len(keys), max_size=len(keys))),
                    strict=True,
                )
            )
            for name in names
        },
        "layers": draw(st.lists(layer, max_size=4)),
    }


def rendered(run: dict[str, Any]) -> str:
    """The log of a run."""
    lines = [
        "&&&& RUNNING TensorRT.trtexec [TensorRT "
        f"{run['code']}]{' [b9]' if run['passed'] else ''} # trtexec --loadEngine=m.engine"
    ]
    body = [
        "=== Model Options ===",
        "Format: *",
        f"Warmup completed {run['warmups']} queries over 200 ms",
    ]
    body += [
        f"Timing trace has {run['queries']} queries over 3.00142 s",
        "",
        "=== Trace details ===",
        "Trace averages of 10 runs:",
    ]
    body += [
        "Average on 10 runs - GPU latency: 1.2 ms - Host latency: 1.3 ms (enqueue 0.4 ms)",
        "",
        "=== Performance summary ===",
    ]
    body += [f"Throughput: {written(run['qps'])} qps"]
    for name, values in run["spreads"].items():
        parts = [
            f"{k if isinstance(k, str) else f'percentile({k:g}%)'} = {written(v)} ms"
            for k, v in values.items()
        ]
        body.append(f"{name}: {', '.join(parts)}")
    body += [
        f"Total Host Walltime: {written(run['wall'])} s",
        f"Total GPU Compute Time: {written(run['compute'])} s",
    ]
    lines += [INFO + line for line in body]
    lines += [f"{WARN}* GPU compute time is unstable, with coefficient of variance = 7.05215%."]
    lines += [INFO + line for line in table(run)]
    lines += [
        f"&&&& {'PASSED' if run['passed'] else 'FAILED'} TensorRT.trtexec [TensorRT "
        f"{run['code']}] # trtexec --loadEngine=m.engine"
    ]
    return "\n".join(lines) + "\n"


def table(run: dict[str, Any]) -> list[str]:
    """The `--dumpProfile` table: name in front up to 8.4, behind and with a median since."""
    rows = [f"=== Profile ({run['queries']} iterations ) ==="]
    if run["old"]:
        rows += ["       Layer   Time (ms)   Avg. Time (ms)   Time %"]
        rows += [f"{n:>12}{t:>12.2f}{a:>17.4f}{p:>9.1f}" for n, t, a, _, p in run["layers"]]
        return [*rows, "       Total        3.00           1.0000    100.0", ""]
    rows += ["   Time(ms)     Avg.(ms)   Median(ms)   Time(%)   Layer"]
    rows += [f"{t:>11.2f}{a:>13.4f}{m:>13.4f}{p:>10.1f}   {n}" for n, t, a, m, p in run["layers"]]
    return [*rows, "       3.00       1.0000       1.0000     100.0   Total", ""]


def same(a: Any, b: Any) -> bool:
    return a == b or (
        isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    )
