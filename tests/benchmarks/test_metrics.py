"""The metric declarations: direction, unit, and what must be equal to compare two values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgewright.benchmarks import metrics
from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.metric import PLACEHOLDER, Conditions, Metric
from edgewright.benchmarks.metrics import METRICS, find, format_value, names_of, why_unlike
from edgewright.errors import UsageError
from edgewright.pipeline.sweep_objectives import Objective

LATENCY = {"prompt": 64, "new_tokens": 64, "runs": 5, "batch": 1}
CONTEXT: dict[str, Any] = {
    "data_hash/text": "aaaa",
    "seq_len/text": 256,
    "reference/text": "bbbb",
    "problems/task": 100,
    "problems_hash/task": "cccc",
    "shots/task": None,
    "shots_used/task": 0,
    "task_version/task": 1.0,
    "device": "cpu",
    "framing/task": "boxed",
    "max_new_tokens/task": 160,
    "threads": 2,
    "latency": LATENCY,
    "board": "Jetson Orin Nano",
    "power_mode": "15W",
    "engine": {"prompt": 512, "context": 2048, "batch": 1},
    "target": "orin",
    "endpoint": {"host": "127.0.0.1", "api": "completions", "ignore_eos": True},
    **{f"load/{load}": {"requests": 10} for load in ("concurrency4", "rate2.5")},
    "answers": {"reference": "dddd", "questions": 16},
}
QUESTIONS = {"problems/task", "problems_hash/task", "shots_used/task", "task_version/task"}
ASKED = {"shots/task", "framing/task", "max_new_tokens/task"}
TEXT = {"data_hash/text", "seq_len/text"}
BOARD = {"board", "power_mode"}
TIMING = {"device", "threads", "latency", *BOARD}
LOAD = {"endpoint", "load/concurrency4"}
EXPECTED: list[tuple[str, str, str, set[str]]] = [
    ("accuracy/task", "higher", "", QUESTIONS | ASKED),
    ("accuracy/task/n", "unknown", "", QUESTIONS | ASKED),
    ("accuracy/task/stderr", "lower", "", QUESTIONS | ASKED),
    ("accuracy_by_byte/task", "higher", "", QUESTIONS | ASKED),
    ("perplexity/text", "lower", "", TEXT),
    ("perplexity/text/stderr", "lower", "", TEXT),
    ("perplexity/text/n", "unknown", "", TEXT),
    ("kl/text", "lower", "", TEXT | {"reference/text"}),
    ("top1_agreement/text", "higher", "", TEXT | {"reference/text"}),
    ("lm_eval/task/acc", "higher", "", QUESTIONS),
    ("lm_eval/task/acc.stderr", "lower", "", QUESTIONS),
    ("lm_eval/task/acc_norm", "higher", "", QUESTIONS),
    ("lm_eval/task/exact_match,last_number", "higher", "", QUESTIONS),
    ("lm_eval/task/exact_match,last_number.stderr", "lower", "", QUESTIONS),
    ("lm_eval/task/chrf++", "higher", "", QUESTIONS),
    ("lm_eval/task/word_perplexity", "lower", "", QUESTIONS),
    ("lm_eval/task/bits_per_byte", "lower", "", QUESTIONS),
    ("lm_eval/task/ter", "lower", "", QUESTIONS),
    ("lm_eval/task/termination", "unknown", "", QUESTIONS),
    ("lm_eval/task/of_ones_own", "unknown", "", QUESTIONS),
    ("ttft_ms/p50", "lower", "ms", TIMING),
    ("ttft_ms/p90", "lower", "ms", TIMING),
    ("ttft_ms/p99", "lower", "ms", TIMING),
    ("ttft_ms/cv", "lower", "", TIMING),
    ("ttft_ms/p50/batch4-prompt64", "lower", "ms", TIMING),
    ("token_ms/p50", "lower", "ms", TIMING),
    ("token_ms/p90", "lower", "ms", TIMING),
    ("token_ms/p99", "lower", "ms", TIMING),
    ("decode_tok_s/p50", "higher", "tok/s", TIMING),
    ("decode_tok_s/cv", "lower", "", TIMING),
    ("decode_tok_s/p50/batch1-prompt512", "higher", "tok/s", TIMING),
    ("prefill_tok_s", "higher", "tok/s", TIMING),
    ("prefill_tok_s/batch16-prompt64", "higher", "tok/s", TIMING),
    ("joules_per_token", "lower", "J", TIMING),
    *(
        (f"{kind}_ms/p{share}/concurrency4", "lower", "ms", LOAD)
        for kind in ("ttft", "itl", "tpot", "e2e")
        for share in (50, 90, 99)
    ),
    ("output_tok_s/concurrency4", "higher", "tok/s", LOAD),
    ("requests_s/rate2.5", "higher", "/s", {"endpoint", "load/rate2.5"}),
    ("failed_requests/concurrency4", "lower", "", LOAD),
    ("load_s", "lower", "s", TIMING - {"latency"}),
    ("peak_rss_bytes", "lower", "MB", TIMING - {"threads"}),
    ("peak_rss_bytes/decode", "lower", "MB", TIMING - {"threads"}),
    ("size_bytes", "lower", "MB", set()),
    ("parameters", "lower", "", set()),
    ("kv_cache_bytes/2048", "lower", "MB", set()),
    ("predicted/ttft_ms", "lower", "ms", {"target"}),
    ("predicted/decode_tok_s", "higher", "tok/s", {"target"}),
    ("predicted/total_bytes", "lower", "MB", {"target"}),
    ("answers/top1", "higher", "", {"answers"}),
    ("answers/top1/stderr", "lower", "", {"answers"}),
    ("answers/top1/n", "unknown", "", {"answers"}),
    ("answers/prefix", "higher", "", {"answers"}),
    ("answers/prefix/stderr", "lower", "", {"answers"}),
    ("answers/prefix/n", "unknown", "", {"answers"}),
    ("answers/garbage", "lower", "", {"answers"}),
    ("answers/garbage/stderr", "lower", "", {"answers"}),
    ("answers/garbage/n", "unknown", "", {"answers"}),
    ("answers/kl", "lower", "", {"answers"}),
    ("check/tokens", "unknown", "", set()),
    ("check/equal", "higher", "", set()),
    ("check/ties", "lower", "", set()),
    ("device/power_w", "lower", "W", BOARD),
    ("device/power_w/max", "lower", "W", BOARD),
    ("device/gpu_mhz", "unknown", "MHz", BOARD),
    ("device/emc_mhz", "unknown", "MHz", BOARD),
    ("device/gpu_percent", "unknown", "%", BOARD),
    ("device/temperature_c/max", "lower", "°C", BOARD),
    ("device/ram_used_bytes/max", "lower", "MB", BOARD),
    ("device/swap_used_bytes/max", "lower", "MB", BOARD),
    ("device/samples", "unknown", "", BOARD),
    ("tensorrt/size_bytes", "lower", "MB", {"engine", *BOARD}),
    ("tensorrt/build_s", "lower", "s", {"engine", *BOARD}),
    ("tensorrt/ttft_ms/p50", "lower", "ms", {"engine", *BOARD}),
    ("tensorrt/ttft_ms/p99", "lower", "ms", {"engine", *BOARD}),
    ("tensorrt/prefill_tok_s", "higher", "tok/s", {"engine", *BOARD}),
    ("tensorrt/prefill_queries", "unknown", "", {"engine", *BOARD}),
    ("tensorrt/prefill_qps", "higher", "/s", {"engine", *BOARD}),
    ("tensorrt/decode_tok_s/p50", "higher", "tok/s", {"engine", *BOARD}),
    ("tensorrt/decode_ms/p50", "lower", "ms", {"engine", *BOARD}),
    ("tensorrt/decode_queries", "unknown", "", {"engine", *BOARD}),
    ("tensorrt/decode_qps", "higher", "/s", {"engine", *BOARD}),
    ("parity/max_abs_diff", "lower", "", set()),
    ("parity/kl", "lower", "", set()),
    ("parity/kv_cache_kl", "lower", "", set()),
    ("parity/top1_prefill", "higher", "", set()),
    ("parity/top1_decode", "higher", "", set()),
    ("parity/positions", "unknown", "", set()),
    ("parity/decode_steps", "unknown", "", set()),
    ("parity/low_bit_nodes", "unknown", "", set()),
]
"""Every metric that is written: direction, unit, and the context entries that must be equal."""
NAMES = [name for name, *_ in EXPECTED]


def changed(key: str) -> dict[str, Any]:
    """The context with another value of one entry."""
    return CONTEXT | {key: "another"}


@pytest.mark.parametrize(("name", "better", "unit", "keys"), EXPECTED, ids=NAMES)
def test_direction_unit_and_what_must_be_equal(
    name: str, better: str, unit: str, keys: set[str]
) -> None:
    metric = find(name)
    assert metric is not None
    assert (metric.better, metric.unit) == (better, unit)
    assert metric.label
    assert why_unlike(name, CONTEXT, CONTEXT) == ""
    assert {key for key in CONTEXT if why_unlike(name, changed(key), CONTEXT)} == keys
    for key in keys:
        assert why_unlike(name, CONTEXT, changed(key)).startswith(f"{key} differs")
    assert "without its context" in why_unlike(name, {}, CONTEXT)


@pytest.mark.parametrize(("name", "better", "unit", "keys"), EXPECTED, ids=NAMES)
def test_the_gate_refuses_other_conditions_of_every_metric(
    name: str, better: str, unit: str, keys: set[str]
) -> None:
    for key in keys:
        new = {"name": "new", "metrics": {name: 1.0}, "context": changed(key)}
        old = {"name": "old", "metrics": {name: 1.0}, "context": CONTEXT}
        with pytest.raises(UsageError, match="cannot be compared") as caught:
            check_gate(new, old, Policy(limits={name: Limit(max_ratio=2.0)}))
        assert f"{key} differs" in str(caught.value)
        assert f"`{name}`" in str(caught.value)
        absolute = Policy(limits={name: Limit(max=2.0)})
        assert check_gate(new, old, absolute)["verdict"] == "pass", "it compares nothing"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("accuracy/task", "problems/task"),
        ("accuracy_by_byte/task", "problems/task"),
        ("perplexity/text", "data_hash/text"),
        ("kl/text", "seq_len/text"),
        *(("lm_eval/task/of_ones_own", key) for key in sorted(QUESTIONS)),
        *(("token_ms/p90", key) for key in ("device", "threads", "latency")),
        ("joules_per_token", "threads"),
        ("load_s", "device"),
        *(("itl_ms/p99/concurrency4", key) for key in sorted(LOAD)),
        ("device/power_w", "board"),
        ("tensorrt/build_s", "engine"),
        ("predicted/ttft_ms", "target"),
    ],
)
def test_conditions_that_neither_side_recorded_are_no_agreement(name: str, key: str) -> None:
    bare = {entry: value for entry, value in CONTEXT.items() if entry != key}
    assert why_unlike(name, bare, bare) == f"{key} was not recorded on either side"
    assert why_unlike(name, bare, CONTEXT).startswith(f"{key} differs (None against")


def test_what_older_versions_did_not_record_counts_where_both_sides_have_it() -> None:
    older = {entry: value for entry, value in CONTEXT.items() if entry != "max_new_tokens/task"}
    assert why_unlike("accuracy/task", older, CONTEXT) == ""
    for key in ("problems_hash/task", "shots_used/task", "task_version/task"):
        older = {entry: value for entry, value in CONTEXT.items() if entry != key}
        assert why_unlike("accuracy/task", older, CONTEXT) == ""
        assert why_unlike("lm_eval/task/acc", older, CONTEXT) != ""


def test_a_device_is_not_compared_with_the_machine_that_exported() -> None:
    here = {key: value for key, value in CONTEXT.items() if key not in BOARD}
    there = here | {"board": "Jetson Orin Nano", "power_mode": "15W"}
    assert "board differs" in why_unlike("decode_tok_s/p50", there, here)
    assert why_unlike("decode_tok_s/p50", here, here) == ""
    assert "power_mode differs" in why_unlike(
        "decode_tok_s/p50", there, there | {"power_mode": "25W"}
    )


def test_unknown_metrics_are_refused_and_not_compared_in_silence(cli, tmp_path) -> None:
    both = {"name": "both", "metrics": {"ttft_ms/p75": 1.0}, "context": CONTEXT}
    for limit in (Limit(max_ratio=2.0), Limit(max=2.0)):
        with pytest.raises(UsageError, match="gate: no such metric `ttft_ms/p75`") as caught:
            check_gate(both, both, Policy(limits={"ttft_ms/p75": limit}))
        assert "ttft_ms/p50" in caught.value.hint
    assert "not a metric that edgewright knows" in why_unlike("ttft_ms/p75", CONTEXT, CONTEXT)
    file = tmp_path / "m.json"
    file.write_text(json.dumps(both))
    (tmp_path / "policy.yaml").write_text("ttft_ms/p75: {max_ratio: 2}\n")
    code, out, err = cli("gate", file, "--baseline", file, "--policy", tmp_path / "policy.yaml")
    assert (code, out) == (2, "")
    assert "no such metric" in err


@pytest.mark.parametrize("name", [name for name, better, *_ in EXPECTED if better == "lower"])
def test_a_drop_of_what_should_be_small_is_refused(name: str) -> None:
    both = {"name": "both", "metrics": {name: 1.0}, "context": CONTEXT}
    with pytest.raises(UsageError, match="less of it is better"):
        check_gate(both, both, Policy(limits={name: Limit(max_drop=0.1)}))


@pytest.mark.parametrize(("name", "better", "unit", "keys"), EXPECTED, ids=NAMES)
def test_a_sweep_optimizes_in_the_declared_direction(
    name: str, better: str, unit: str, keys: set[str]
) -> None:
    assert Objective.parse(f"{name}:min") == Objective(name, less=True)
    assert Objective.parse(f"{name}:max") == Objective(name, less=False)
    if better == "unknown":
        with pytest.raises(UsageError, match="which way is better") as caught:
            Objective.parse(name)
        assert f"{name}:min" in caught.value.hint
    else:
        assert Objective.parse(name) == Objective(name, less=better == "lower")


def test_a_sweep_refuses_an_unknown_metric_before_any_work() -> None:
    with pytest.raises(UsageError, match="no such metric") as caught:
        Objective.parse("speed")
    assert "decode_tok_s/p50" in caught.value.hint


@pytest.mark.parametrize("metric", METRICS, ids=[metric.pattern for metric in METRICS])
def test_declarations_are_consistent(metric: Metric) -> None:
    rules = metric.conditions
    keys = (*rules.recorded, *rules.equal, *rules.if_recorded)
    names = {found["name"] for found in PLACEHOLDER.finditer(metric.pattern)}
    used = {found["name"] for key in keys for found in PLACEHOLDER.finditer(key)}
    assert used <= names
    if metric.default_limit:
        assert Limit.model_validate(metric.default_limit)
        assert metric.has_samples
    if metric.has_samples:
        assert metric.better != "unknown"
    assert any(find(name) is metric for name in NAMES), "EXPECTED has an example of each"


def test_patterns_in_the_lists_of_what_is_shown_are_declared() -> None:
    patterns = {metric.pattern for metric in METRICS}
    assert len(patterns) == len(METRICS)
    shown = (*metrics.REPORT_COLUMNS, *metrics.HEADLINES, *metrics.CHARTS, *metrics.TRADE_OFFS)
    assert {*shown, metrics.ACCURACY} <= patterns
    assert metrics.PREDICTED == ("ttft_ms", "decode_tok_s", "total_bytes")


def test_lm_evals_own_metrics_have_lm_evals_direction() -> None:
    pytest.importorskip("lm_eval.api.metrics")
    from lm_eval.api.registry import higher_is_better_registry as registry

    known = {name: registry.get(name) for name in registry if name != "bypass"}
    assert len(known) > 10
    for name, higher in known.items():
        for suffix in ("", ",strict-match"):
            metric = find(f"lm_eval/task/{name}{suffix}")
            assert metric is not None
            assert metric.better == ("higher" if higher else "lower"), name


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("accuracy/task", 0.95, "0.950"),
        ("top1_agreement/text", 1, "1.000"),
        ("perplexity/text", 25.974534, "25.97"),
        ("kl/text", 0.000031, "3.10e-05"),
        ("ttft_ms/p50", 11.234, "11.2 ms"),
        ("decode_tok_s/p50", 3049.2, "3,049 tok/s"),
        ("size_bytes", 2_400_000, "2.40 MB"),
        ("kv_cache_bytes/2048", 12_850_000, "12.8 MB"),
        ("parameters", 2_409_000, "2.41 M"),
        ("parity/positions", 512.0, "512"),
        ("parity/top1_decode", 0.992, "0.992"),
        ("size_bytes", None, "–"),
        ("perplexity/text", float("inf"), "∞"),
        ("odd", 1234.5, "1,234"),
        ("odd", 7, "7"),
    ],
)
def test_values_as_people_read_them(name: str, value: float | None, text: str) -> None:
    assert format_value(name, value, unit=True) == text


def test_names_of_a_pattern_leave_out_counts_and_errors() -> None:
    names = [
        "accuracy/a",
        "accuracy/a/n",
        "accuracy/a/stderr",
        "accuracy/b/c",
        "accuracy_by_byte/a",
    ]
    assert names_of([*names, "accuracy/a"], "accuracy/<task>") == ["accuracy/a", "accuracy/b/c"]


def test_a_declaration_is_all_that_a_new_metric_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    novel = Metric(
        "novel/<data>",
        "novelty",
        "lower",
        "bits",
        conditions=Conditions(recorded=("data_hash/<data>",)),
    )
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, novel))
    find.cache_clear()
    try:
        both = {"name": "both", "metrics": {"novel/text": 1.0}, "context": CONTEXT}
        limits = {"novel/text": Limit(max_ratio=1.0)}
        assert check_gate(both, both, Policy(limits=limits))["verdict"] == "pass"
        with pytest.raises(UsageError, match="data_hash/text differs"):
            check_gate(both | {"context": changed("data_hash/text")}, both, Policy(limits=limits))
        assert Objective.parse("novel/text").less
        assert format_value("novel/text", 2.5, unit=True) == "2.50 bits"
    finally:
        find.cache_clear()
    assert replace(novel, unit="") != novel
