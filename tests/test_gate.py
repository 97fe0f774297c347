"""The gate: what passes, what fails, what is not compared at all, and what a policy file may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.gate import Limit, check_gate, load_measurement, load_policy
from edgewright.benchmarks.measure import comparable
from edgewright.errors import UsageError

CONTEXT: dict[str, Any] = {
    "data_hash/text": "aaaa", "seq_len/text": 256, "problems/reasoning": 100, "device": "cpu", "threads": 2,
    "latency": {"prompt": 64, "new_tokens": 64, "runs": 5, "batch": 1},
}  # fmt: skip


def measured(name: str = "candidate", context: dict[str, Any] | None = None, **metrics: float) -> dict[str, Any]:
    """A measurement; metric names are written with two underscores for the slash."""
    return {"name": name, "metrics": {k.replace("__", "/"): v for k, v in metrics.items()}, "context": context or CONTEXT}


def verdict(new: float, old: float, **limit: float) -> str:
    limits = {"accuracy/reasoning": Limit(**limit)}
    return check_gate(measured(accuracy__reasoning=new), measured("baseline", accuracy__reasoning=old), limits)["verdict"]


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
        (0.0, 0.0, {"min_ratio": 0.95}, "fail"),
        (1.0, 0.0, {"max_ratio": 1.06}, "fail"),
        (float("nan"), 1.0, {"min_ratio": 0.95}, "fail"),
        (float("nan"), 1.0, {"max": 5.0}, "fail"),
        (1.0, float("nan"), {"max_ratio": 1.06}, "fail"),
    ],
)
def test_verdicts(new: float, old: float, limit: dict[str, float], expected: str) -> None:
    assert verdict(new, old, **limit) == expected


def test_every_check_is_reported() -> None:
    limits = {"accuracy/reasoning": Limit(min_ratio=0.9, min=0.7), "size_bytes": Limit(max_ratio=0.34)}
    new, old = measured("int4", accuracy__reasoning=0.6, size_bytes=30), measured("fp32", accuracy__reasoning=0.8, size_bytes=100)
    result = check_gate(new, old, limits)
    assert (result["verdict"], result["candidate"], result["baseline"]) == ("fail", "int4", "fp32")
    assert [(c["metric"], c["limit"], pytest.approx(c["observed"]), c["passed"]) for c in result["checks"]] == [
        ("accuracy/reasoning", "ratio >= 0.9", 0.75, False),
        ("accuracy/reasoning", ">= 0.7", 0.6, False),
        ("size_bytes", "ratio <= 0.34", 0.3, True),
    ]
    json.dumps(result)


def test_zero_baseline_has_no_ratio() -> None:
    limits = {"accuracy/reasoning": Limit(min_ratio=0.5)}
    check = check_gate(measured(accuracy__reasoning=1.0), measured(accuracy__reasoning=0.0), limits)["checks"][0]
    assert (check["observed"], check["passed"]) == (None, False)


def test_default_limits_are_those_of_kinds_both_sides_have() -> None:
    new = measured(accuracy__reasoning=0.94, accuracy__reasoning__stderr=0.9, accuracy__reasoning__n=5, perplexity__text=10.5, size_bytes=1)
    old = measured("base", accuracy__reasoning=1.0, accuracy__reasoning__stderr=0.1, accuracy__reasoning__n=9, perplexity__text=10.0)
    checks = check_gate(new, old, {})["checks"]
    assert [(c["metric"], c["limit"], c["passed"]) for c in checks] == [
        ("accuracy/reasoning", "ratio >= 0.95", False),
        ("perplexity/text", "ratio <= 1.06", True),
    ]
    with pytest.raises(UsageError, match="nothing to compare"):
        check_gate(measured(size_bytes=1), measured(size_bytes=1), {})


def test_missing_metrics_are_named() -> None:
    limits = {"accuracy/reasoning": Limit(min_ratio=0.9)}
    with pytest.raises(UsageError, match="`candidate` has no metric `accuracy/reasoning`") as caught:
        check_gate(measured(size_bytes=1), measured("base", accuracy__reasoning=1.0), limits)
    assert "size_bytes" in caught.value.hint
    with pytest.raises(UsageError, match="baseline `base` has no metric `accuracy/reasoning`"):
        check_gate(measured(accuracy__reasoning=1.0), measured("base", size_bytes=1), limits)
    absolute = {"accuracy/reasoning": Limit(min=0.9)}
    assert check_gate(measured(accuracy__reasoning=1.0), measured("base", size_bytes=1), absolute)["verdict"] == "pass"


@pytest.mark.parametrize(
    ("metric", "key", "value", "message"),
    [
        ("perplexity/text", "data_hash/text", "bbbb", "data_hash/text differs (bbbb against aaaa)"),
        ("perplexity/text", "seq_len/text", 512, "seq_len/text differs (512 against 256)"),
        ("kl/text", "data_hash/text", "bbbb", "data_hash/text differs"),
        ("accuracy/reasoning", "problems/reasoning", 50, "problems/reasoning differs (50 against 100)"),
        ("ttft_ms/p50", "threads", 8, "threads differs (8 against 2)"),
        ("decode_tok_s/p50", "device", "cuda", "device differs (cuda against cpu)"),
        ("peak_rss_bytes", "latency", None, "latency differs"),
    ],
)
def test_unlike_things_are_not_compared(metric: str, key: str, value: Any, message: str) -> None:
    new = {"name": "new", "metrics": {metric: 1.0}, "context": CONTEXT | {key: value}}
    old = {"name": "old", "metrics": {metric: 1.0}, "context": CONTEXT}
    with pytest.raises(UsageError) as caught:
        check_gate(new, old, {metric: Limit(max_ratio=1.1)})
    assert message in str(caught.value)
    assert f"`{metric}`" in str(caught.value)
    assert check_gate(new, old, {metric: Limit(max=1.1)})["verdict"] == "pass"  # an absolute limit compares nothing
    assert check_gate(old, old, {metric: Limit(max_ratio=1.1)})["verdict"] == "pass"


def test_sizes_are_comparable_everywhere_but_nothing_without_context() -> None:
    assert comparable(CONTEXT | {"device": "cuda"}, CONTEXT, "size_bytes") == ""
    with pytest.raises(UsageError, match="without its context"):
        comparable({}, CONTEXT, "size_bytes")


# Files


def test_measurements_from_files_and_runs(tmp_path: Path) -> None:
    one = measured("one", accuracy__reasoning=1.0)
    (tmp_path / "one.json").write_text(json.dumps(one | {"more": 1}))
    assert load_measurement(str(tmp_path / "one.json")) == one
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger.json").write_text(json.dumps({"schema": 1, "steps": [one | {"kind": "prune"}, measured("two")]}))
    assert load_measurement(f"{tmp_path / 'run'}:one") == one
    with pytest.raises(UsageError, match="no step `three`") as caught:
        load_measurement(f"{tmp_path / 'run'}:three")
    assert "one, two" in caught.value.hint


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "a", "metrics": {}}', '"text"', "null"])
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


def test_policy(tmp_path: Path) -> None:
    assert load_policy(None) == {}
    file = tmp_path / "policy.yaml"
    file.write_text("accuracy/reasoning: {min_ratio: 0.9}\nsize_bytes:\n  max_ratio: 0.5\n  max: 1.0e+9\n")
    assert load_policy(file) == {"accuracy/reasoning": Limit(min_ratio=0.9), "size_bytes": Limit(max_ratio=0.5, max=1e9)}


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
