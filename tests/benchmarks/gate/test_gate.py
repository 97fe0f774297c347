"""The gate: what passes and fails, what is not compared at all, and what a policy may contain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy, load_policy
from edgewright.benchmarks.gate.result_files import explain
from edgewright.benchmarks.measurement_files import (
    load_measurement,
    replace_baseline,
    write_measurement,
)
from edgewright.benchmarks.metrics import why_unlike
from edgewright.errors import EdgewrightError, UsageError

CONTEXT: dict[str, Any] = {
    "data_hash/text": "aaaa",
    "seq_len/text": 256,
    "problems/reasoning": 100,
    "problems_hash/reasoning": "cccc",
    "device": "cpu",
    "threads": 2,
    "latency": {"prompt": 64, "new_tokens": 64, "runs": 5, "batch": 1},
}


def measured(
    name: str = "candidate", context: dict[str, Any] | None = None, **metrics: float
) -> dict[str, Any]:
    """A measurement; metric names are written with two underscores for the slash."""
    return {
        "name": name,
        "metrics": {k.replace("__", "/"): v for k, v in metrics.items()},
        "context": context or CONTEXT,
        "samples": {},
    }


def gate(new: dict[str, Any], old: dict[str, Any], limits: dict[str, Limit]) -> dict[str, Any]:
    return check_gate(new, old, Policy(limits=limits))


def verdict(new: float, old: float, **limit: float) -> str:
    limits = {"accuracy/reasoning": Limit(**limit)}
    return gate(
        measured(accuracy__reasoning=new), measured("baseline", accuracy__reasoning=old), limits
    )["verdict"]


@pytest.mark.parametrize(
    ("new", "old", "limit", "expected"),
    [
        (0.95, 1.0, {"min_ratio": 0.95}, "pass"),
        (0.9499, 1.0, {"min_ratio": 0.95}, "fail"),
        (1.06, 1.0, {"max_ratio": 1.06}, "pass"),
        (1.0601, 1.0, {"max_ratio": 1.06}, "fail"),
        (0.5, 0.5, {"min": 0.5}, "pass"),
        (0.499, 0.1, {"min": 0.5}, "fail"),
        (0.1, 0.0, {"max": 0.1}, "pass"),
        (0.11, 9.0, {"max": 0.1}, "fail"),
        (0.8, 1.0, {"min_ratio": 0.7, "max_ratio": 0.9, "min": 0.5, "max": 0.85}, "pass"),
        (0.8, 1.0, {"min_ratio": 0.7, "max": 0.75}, "fail"),
        (0.8, 1.0, {"min_ratio": 0.9, "max": 0.85}, "fail"),
        (0.0, 0.0, {"min_ratio": 0.95}, "pass"),
        (0.9, 0.0, {"min_ratio": 0.95}, "pass"),
        (0.0, 0.0, {"max_ratio": 0.9, "max_drop": 0.0}, "pass"),
        (1.0, 0.0, {"max_ratio": 1.06}, "fail"),
        (float("nan"), 0.0, {"min_ratio": 0.95}, "fail"),
        (float("nan"), 1.0, {"min_ratio": 0.95}, "fail"),
        (float("nan"), 1.0, {"max": 5.0}, "fail"),
        (1.0, float("nan"), {"max_ratio": 1.06}, "fail"),
        # 0.95 - 0.92 is a little more than 0.03 in floating point
        (0.92, 0.95, {"max_drop": 0.03}, "pass"),
        (0.9199, 0.95, {"max_drop": 0.03}, "fail"),
        (0.99, 0.95, {"max_drop": 0.0}, "pass"),
        (0.1, 0.0, {"max_drop": 0.0}, "pass"),
        (float("nan"), 0.95, {"max_drop": 0.5}, "fail"),
    ],
)
def test_verdicts(new: float, old: float, limit: dict[str, float], expected: str) -> None:
    assert verdict(new, old, **limit) == expected


def test_every_check_is_reported() -> None:
    limits = {
        "accuracy/reasoning": Limit(min_ratio=0.9, min=0.7),
        "size_bytes": Limit(max_ratio=0.34),
    }
    new = measured("int4", accuracy__reasoning=0.6, size_bytes=30)
    old = measured("fp32", accuracy__reasoning=0.8, size_bytes=100)
    result = gate(new, old, limits)
    assert (result["verdict"], result["candidate"], result["baseline"]) == ("fail", "int4", "fp32")
    assert [
        (c["metric"], c["limit"], pytest.approx(c["observed"]), c["verdict"], c["note"])
        for c in result["checks"]
    ] == [
        (
            "accuracy/reasoning",
            "ratio >= 0.9",
            0.75,
            "fail",
            "no samples on both sides: decided on the value",
        ),
        (
            "accuracy/reasoning",
            ">= 0.7",
            0.6,
            "fail",
            "no samples on both sides: decided on the value",
        ),
        ("size_bytes", "ratio <= 0.34", 0.3, "pass", ""),
    ]
    json.dumps(result)


def test_zero_baseline_has_no_ratio() -> None:
    limits = {"accuracy/reasoning": Limit(min_ratio=0.5)}
    sides = (measured(accuracy__reasoning=1.0), measured(accuracy__reasoning=0.0))
    (check,) = gate(*sides, limits)["checks"]
    assert (check["observed"], check["verdict"]) == (None, "pass")
    assert "the baseline is 0, to which there is no ratio" in check["note"]
    assert explain(check).startswith("no ratio, limit ratio >= 0.5; the baseline is 0")


def test_default_limits_are_those_of_kinds_both_sides_have() -> None:
    new = measured(
        accuracy__reasoning=0.94,
        accuracy__reasoning__stderr=0.9,
        accuracy__reasoning__n=5,
        perplexity__text=10.5,
        size_bytes=1,
    )
    old = measured(
        "base",
        accuracy__reasoning=1.0,
        accuracy__reasoning__stderr=0.1,
        accuracy__reasoning__n=9,
        perplexity__text=10.0,
    )
    checks = gate(new, old, {})["checks"]
    assert [(c["metric"], c["limit"], c["verdict"]) for c in checks] == [
        ("accuracy/reasoning", "ratio >= 0.95", "fail"),
        ("perplexity/text", "ratio <= 1.06", "pass"),
    ]
    with pytest.raises(UsageError, match="nothing to compare"):
        gate(measured(size_bytes=1), measured(size_bytes=1), {})


def test_missing_metrics_are_named() -> None:
    limits = {"accuracy/reasoning": Limit(min_ratio=0.9)}
    with pytest.raises(
        UsageError, match="`candidate` has no metric `accuracy/reasoning`"
    ) as caught:
        gate(measured(size_bytes=1), measured("base", accuracy__reasoning=1.0), limits)
    assert "size_bytes" in caught.value.hint
    with pytest.raises(UsageError, match="baseline `base` has no metric `accuracy/reasoning`"):
        gate(measured(accuracy__reasoning=1.0), measured("base", size_bytes=1), limits)
    absolute = {"accuracy/reasoning": Limit(min=0.9)}
    assert (
        gate(measured(accuracy__reasoning=1.0), measured("base", size_bytes=1), absolute)["verdict"]
        == "pass"
    )


@pytest.mark.parametrize(
    ("metric", "key", "value", "message"),
    [
        ("perplexity/text", "data_hash/text", "bbbb", "data_hash/text differs (bbbb against aaaa)"),
        ("perplexity/text", "seq_len/text", 512, "seq_len/text differs (512 against 256)"),
        ("kl/text", "data_hash/text", "bbbb", "data_hash/text differs"),
        (
            "accuracy/reasoning",
            "problems/reasoning",
            50,
            "problems/reasoning differs (50 against 100)",
        ),
        (
            "accuracy/reasoning",
            "problems_hash/reasoning",
            "dddd",
            "problems_hash/reasoning differs (dddd against cccc)",
        ),
        ("ttft_ms/p50", "threads", 8, "threads differs (8 against 2)"),
        ("decode_tok_s/p50", "device", "cuda", "device differs (cuda against cpu)"),
        ("peak_rss_bytes", "latency", None, "latency differs"),
    ],
)
def test_unlike_things_are_not_compared(metric: str, key: str, value: Any, message: str) -> None:
    new = {"name": "new", "metrics": {metric: 1.0}, "context": CONTEXT | {key: value}}
    old = {"name": "old", "metrics": {metric: 1.0}, "context": CONTEXT}
    with pytest.raises(UsageError) as caught:
        gate(new, old, {metric: Limit(max_ratio=1.1)})
    assert message in str(caught.value)
    assert f"`{metric}`" in str(caught.value)
    # An absolute limit compares nothing.
    assert gate(new, old, {metric: Limit(max=1.1)})["verdict"] == "pass"
    assert gate(old, old, {metric: Limit(max_ratio=1.1)})["verdict"] == "pass"


def test_problems_of_an_older_measurement_are_known_by_their_number() -> None:
    older = {key: value for key, value in CONTEXT.items() if key != "problems_hash/reasoning"}
    assert why_unlike("accuracy/reasoning", CONTEXT, older) == ""


@pytest.mark.parametrize("metric", ["perplexity/text", "kl/text", "size_bytes", "ttft_ms/p50"])
def test_a_drop_of_what_should_be_small_is_refused(metric: str) -> None:
    both = {"name": "both", "metrics": {metric: 1.0}, "context": CONTEXT}
    with pytest.raises(UsageError, match="less of it is better"):
        gate(both, both, {metric: Limit(max_drop=0.1)})


def test_sizes_are_comparable_everywhere_but_nothing_without_context() -> None:
    assert why_unlike("size_bytes", CONTEXT | {"device": "cuda"}, CONTEXT) == ""
    bare = measured(size_bytes=1) | {"context": {}}
    with pytest.raises(UsageError, match="without its context"):
        gate(bare, measured(size_bytes=1), {"size_bytes": Limit(max_ratio=1.0)})


# Files


def test_measurements_from_files_and_runs(tmp_path: Path) -> None:
    one = measured("one", accuracy__reasoning=1.0)
    (tmp_path / "one.json").write_text(json.dumps(one | {"more": 1}))
    assert load_measurement(str(tmp_path / "one.json")) == one
    (tmp_path / "run" / "samples").mkdir(parents=True)
    steps = [
        {"kind": "prune"} | one | {"samples": "samples/one.json"},
        {k: v for k, v in measured("two").items() if k != "samples"},
    ]
    (tmp_path / "run" / "ledger.json").write_text(json.dumps({"schema": 1, "steps": steps}))
    assert load_measurement(f"{tmp_path / 'run'}:one") == one, (
        "samples that were removed are no samples"
    )
    kept = {"accuracy/reasoning": {"correct": "11"}}
    (tmp_path / "run" / "samples" / "one.json").write_text(json.dumps(kept))
    assert load_measurement(f"{tmp_path / 'run'}:one") == one | {"samples": kept}
    assert load_measurement(f"{tmp_path / 'run'}:two") == measured("two"), (
        "a step of an older run names no samples"
    )
    with pytest.raises(UsageError, match="no step `three`") as caught:
        load_measurement(f"{tmp_path / 'run'}:three")
    assert "one, two" in caught.value.hint


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"name": "a", "metrics": {}}', '"text"', "null"]
)
def test_broken_measurements(content: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="not a measurement") as caught:
        load_measurement(str(file))
    assert "bench" in caught.value.hint


def test_measurements_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for where in ("nothing.json", f"{tmp_path / 'run'}:one", f"{tmp_path / 'run'}", ":one", ""):
        with pytest.raises(UsageError, match="neither a measurement file nor RUN:STEP"):
            load_measurement(where)
    for where, what in (
        ("nothing.json", "nothing.json: no such file,"),
        ("runs/none:one", "runs/none:one: no such file, and no run in runs/none,"),
        (f"{tmp_path / 'run'}", "run: a directory,"),
    ):
        with pytest.raises(UsageError, match=what):
            load_measurement(where)


def test_a_baseline_is_replaced_whole_and_only_where_a_measurement_was(tmp_path: Path) -> None:
    one = measured("one", accuracy__reasoning=1.0)
    two = measured("two", accuracy__reasoning=0.9)
    two["samples"] = {
        "accuracy/reasoning": {"correct": "1" * 9 + "0"},
        "perplexity/text": {"nll": [0.5, 1.25], "tokens": [3, 4]},
    }
    for measurement in (one, two):
        assert replace_baseline(measurement, str(tmp_path / "main.json")) == tmp_path / "main.json"
        assert load_measurement(str(tmp_path / "main.json")) == measurement
    assert [p.name for p in tmp_path.iterdir()] == ["main.json"]
    lines = (tmp_path / "main.json").read_text().splitlines()
    assert '    "perplexity/text": {"nll": [0.5, 1.25], "tokens": [3, 4]}' in lines, (
        "one metric, one line of a diff"
    )
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(UsageError, match="not a measurement"):
        replace_baseline(one, str(tmp_path / "notes.json"))
    assert (tmp_path / "notes.json").read_text() == "{}"
    (tmp_path / "ledger.json").write_text("{}")
    with pytest.raises(UsageError, match="a step of a run is no file"):
        replace_baseline(one, f"{tmp_path}:baseline")
    with pytest.raises(EdgewrightError, match="could not be written"):
        write_measurement(tmp_path / "no" / "folder.json", one)


def test_policy(tmp_path: Path) -> None:
    assert load_policy(None) == Policy(confidence=0.95, resamples=10_000, inconclusive="warn")
    file = tmp_path / "policy.yaml"
    file.write_text(
        "accuracy/reasoning: {min_ratio: 0.9}\nsize_bytes:\n  max_ratio: 0.5\n  max: 1.0e+9\n"
    )
    limits = {
        "accuracy/reasoning": Limit(min_ratio=0.9),
        "size_bytes": Limit(max_ratio=0.5, max=1e9),
    }
    assert load_policy(file) == Policy(limits=limits)
    file.write_text(f"confidence: 0.99\ninconclusive: fail\n{file.read_text()}")
    assert load_policy(file) == Policy(limits=limits, confidence=0.99, inconclusive="fail")
    file.write_text("resamples: 500\nseed: 3\nlimits:\n  accuracy/reasoning: {max_drop: 0}\n")
    assert load_policy(file) == Policy(
        limits={"accuracy/reasoning": Limit(max_drop=0.0)}, resamples=500, seed=3
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a mapping"),
        ("- a\n- b\n", "not a mapping"),
        ("accuracy/reasoning: 0.9\n", "accuracy/reasoning"),
        ("accuracy/reasoning: {}\n", "accuracy/reasoning.*give min_ratio"),
        ("accuracy/reasoning: {at_least: 0.9}\n", "accuracy/reasoning.*at_least"),
        ("accuracy/reasoning: {min: high}\n", "accuracy/reasoning.*min"),
        ("a: {min: 1\n", "not a mapping"),
        ("confidence: 0.4\na: {min: 1}\n", "confidence: .*greater than 0.5"),
        ("inconclusive: maybe\na: {min: 1}\n", "inconclusive: use pass, warn or fail"),
        ("limits: {a: {min: 1}}\nb: {min: 1}\n", "b: there is no such setting"),
    ],
)
def test_broken_policies(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        load_policy(file)
    assert str(file) in str(caught.value)
    assert caught.value.hint


def test_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy(tmp_path / "nothing.yaml")
    with pytest.raises(UsageError, match="cannot be read"):
        load_policy(tmp_path)
