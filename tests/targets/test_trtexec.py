"""trtexec's and tegrastats' output: every format reads back as what was written, and no text makes a reader guess or crash."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import UsageError
from edgewright.targets.tegrastats import parse_samples, summarize
from edgewright.targets.trtexec import Log, parse_log, parse_profile, parse_times

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
        f"&&&& RUNNING TensorRT.trtexec [TensorRT {run['code']}]{' [b9]' if run['passed'] else ''} # trtexec --loadEngine=m.engine"
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
        f"&&&& {'PASSED' if run['passed'] else 'FAILED'} TensorRT.trtexec [TensorRT {run['code']}] # trtexec --loadEngine=m.engine"
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
    assert log.spreads.keys() == {NAMES[name] for name in run["spreads"]}
    for name, values in run["spreads"].items():
        spread = log.spreads[NAMES[name]]
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
    for name, spread in part.spreads.items():
        full = asdict(whole.spreads[name])
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
        "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec --onnx=model.onnx\n"
        f"{INFO}[TRT] [MemUsageChange] Init CUDA: CPU +2, GPU +0, now: CPU 31, GPU 5210 (MiB)\n"
        f"{WARN}[TRT] Using kFASTER_DYNAMIC_SHAPES_0805 preview feature.\n"
        "NvMapMemAllocInternalTagged: 1075072515 error 12\n"
        f"{ERROR}Error[10]: Could not find any implementation for node {{ForeignNode[lm_head/MatMul]}}.\n"
        f"{ERROR}Engine set up failed\n"
        "&&&& FAILED TensorRT.trtexec [TensorRT v100300] # /usr/src/tensorrt/bin/trtexec --onnx=model.onnx\n"
    )
    log = parse_log(text)
    assert (log.version, log.passed, log.throughput_qps, log.spreads) == ("10.3.0", False, None, {})
    assert log.errors == [
        "Error[10]: Could not find any implementation for node {ForeignNode[lm_head/MatMul]}.",
        "Engine set up failed",
    ]
    assert len(log.warnings) == 1


def test_explanations_of_a_verbose_log_are_no_figures() -> None:
    line = "[03/14/2026-15:09:26] [V] Latency: the summation of H2D Latency, GPU Compute Time, and D2H Latency. This is the latency."
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


# --- --exportTimes and --exportProfile ---


def times_file(rows: list[dict[str, float]]) -> str:
    body = [
        "{ " + ", ".join(f'"{key}" : {written(value)}' for key, value in row.items()) + " }"
        for row in rows
    ]
    return (
        "[\n"
        + "".join(f"{'  ' if i == 0 else ', '}{line}\n" for i, line in enumerate(body))
        + "]\n"
    )


FIELDS = (
    "startEnqMs",
    "endEnqMs",
    "startH2dMs",
    "endH2dMs",
    "startComputeMs",
    "endComputeMs",
    "startD2hMs",
    "endD2hMs",
    "h2dMs",
    "computeMs",
    "d2hMs",
    "latencyMs",
)
queries = st.lists(
    st.fixed_dictionaries(dict.fromkeys(FIELDS, floats), optional={"endToEndMs": floats}),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(queries, st.data())
def test_times_read_back_and_truncated_ones_are_whole_queries(
    rows: list[dict[str, float]], data: st.DataObject
) -> None:
    text = times_file(rows)
    times = parse_times(text)
    assert times.complete
    assert len(times.queries) == len(rows)
    for query, row in zip(times.queries, rows, strict=True):
        assert same(query.latency_ms, row["latencyMs"])
        assert same(query.compute_ms, row["computeMs"])
    cut = data.draw(st.integers(1, len(text.rstrip()) - 1))
    part = parse_times(text[:cut])
    assert not part.complete
    assert len(part.queries) in (text[:cut].count("}"), 0)
    assert all(
        same(a.latency_ms, b.latency_ms) for a, b in zip(part.queries, times.queries, strict=False)
    )


def profile_file(
    count: int, layers: list[tuple[str, float, float, float, float]], median: bool
) -> str:
    lines = ["[", f'  {{ "count" : {count} }}']
    for name, total, average, middle, share in layers:
        extra = f', "medianMs" : {written(middle)}' if median else ""
        figures = f'"timeMs" : {written(total)}, "averageMs" : {written(average)}{extra}, "percentage" : {written(share)}'
        lines.append(f', {{ "name" : "{name}", {figures} }}')
    return "\n".join([*lines, "]"]) + "\n"


hostile = st.one_of(
    layer_names,
    st.sampled_from(
        ['a "quoted" b', "back\\slash", '{ForeignNode[a..."b"]}', '", "timeMs" : 1', "x}"]
    ),
)
rows5 = st.lists(st.tuples(hostile, floats, floats, floats, floats), max_size=5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10**6), rows5, st.booleans(), st.data())
def test_profiles_read_back_whatever_layers_are_called(
    count: int, layers: Any, median: bool, data: st.DataObject
) -> None:
    text = profile_file(count, layers, median)
    profile = parse_profile(text)
    assert (profile.iterations, profile.complete) == (count, True)
    try:
        names = [entry["name"] for entry in json.loads(text)[1:]]
    except json.JSONDecodeError:
        names = [layer[0] for layer in layers]
    assert [layer.name for layer in profile.layers] == names
    for got, want in zip(profile.layers, layers, strict=True):
        assert same(got.total_ms, want[1])
        assert same(got.percent, want[4])
        assert got.median_ms is None if not median else same(got.median_ms, want[3])
    part = parse_profile(text[: data.draw(st.integers(1, len(text.rstrip()) - 1))])
    assert [layer.name for layer in part.layers] == names[: len(part.layers)]


def test_a_profile_cut_within_a_name_behind_its_bracket_keeps_the_layers_before() -> None:
    text = profile_file(
        100, [("0", 1.0, 1.0, 1.0, 50.0), ("x}", 1.0, 1.0, 1.0, 50.0)], median=False
    )
    part = parse_profile(text[: text.index("x}") + 2])
    assert ([layer.name for layer in part.layers], part.complete) == (["0"], False)


@pytest.mark.parametrize(
    "text", ["", "{}", '["a"]', "[1, 2]", '[{"a": 1}]', "Killed\n", '[\n{ "computeMs" : 1 }\n']
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"not an --exportTimes file"):
        parse_times(text)
    with pytest.raises(UsageError, match=r"not an --exportProfile file"):
        parse_profile(text)


# --- tegrastats ---

NANO = (
    "03-14-2026 15:09:26 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) CPU [38%@1497,2%@729,off,off,1%@729,0%@729] "
    "EMC_FREQ 61%@3199 GR3D_FREQ 99%@[1020] NVDEC off APE 200 cpu@57.125C soc2@55.093C gpu@58.625C tj@58.312C "
    "VDD_IN 16321mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/2988mW\n"
)
AGX = (
    "03-14-2026 15:09:26 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729] EMC_FREQ 0%@2133 "
    "GR3D_FREQ 7%@[611,1300] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C tj@44.343C "
    "VDD_GPU_SOC 2340mW/2300mW VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW\n"
)
USER = "RAM 1224/15368MB (lfb 8x4MB) SWAP 0/7684MB CPU [1%@729] EMC_FREQ 25% GR3D_FREQ 88% gpu@61.0C VDD_IN 12800/11500\n"


def test_tegrastats_of_each_board() -> None:
    nano, agx, user = (parse_samples(line)[0] for line in (NANO, AGX, USER))
    assert (nano.ram_used_mb, nano.ram_total_mb, nano.largest_free_kb, nano.swap_used_mb) == (
        6712,
        7620,
        4096,
        369,
    )
    assert (nano.gpu_percent, nano.gpu_mhz, nano.emc_percent, nano.emc_mhz) == (99, 1020, 61, 3199)
    assert nano.total_mw == 16321  # the input rail, and not the rails behind it on top
    assert (agx.gpu_mhz, agx.emc_mhz, agx.total_mw) == (1300, 2133, 2340 + 390 + 4025 + 301)
    assert agx.temperature_c == {"CPU": 44.562, "Tboard": 32.0, "tj": 44.343}  # CV0 is off
    assert (user.gpu_percent, user.gpu_mhz, user.emc_mhz, user.total_mw) == (88, None, None, 12800)


def test_tegrastats_summary() -> None:
    text = (
        NANO + "\n" + NANO.replace("16321mW/", "14322mW/").replace("[1020]", "[918]") + NANO[:-40]
    )
    assert summarize(parse_samples(text)) == pytest.approx(
        {
            "device/gpu_mhz": 969,
            "device/emc_mhz": 3199,
            "device/gpu_percent": 99,
            "device/power_w": 15.3215,
            "device/power_w/max": 16.321,
            "device/temperature_c/max": 58.625,
            "device/ram_used_bytes/max": 6712 * 1024**2,
            "device/swap_used_bytes/max": 369 * 1024**2,
            "device/samples": 2,
        }
    )
    assert summarize([]) == {"device/samples": 0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(NANO) - 2))
def test_a_truncated_sample_is_no_sample(cut: int) -> None:
    assert parse_samples(NANO[:cut]) == []
    assert parse_samples(AGX + NANO[:cut]) == parse_samples(AGX)
