"""The gate's evidence: that its intervals are right, how often it is wrong, and what it writes for a CI server."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.gate.result_files import explain, junit_xml, markdown_text
from edgewright.benchmarks.measurement_files import (
    load_measurement,
    problem_samples,
    read_scores,
    window_samples,
    write_lines,
)
from edgewright.benchmarks.statistics import Interval, bounds, resample, samples_needed
from edgewright.errors import UsageError
from edgewright.perf.gate import TEXT, most_any_test_catches, problem_pairs, verdicts, window_pairs

CONTEXT = {"problems/reasoning": 0, "data_hash/text": "aaaa", "seq_len/text": 256}
WORDS = ("pass", "fail", "inconclusive")


def answered(correct: str, name: str = "candidate", **more: Any) -> dict[str, Any]:
    """A measurement of a task from its digits."""
    metrics = {"accuracy/reasoning": correct.count("1") / len(correct)}
    return {
        "name": name,
        "metrics": metrics,
        "context": CONTEXT,
        "samples": {"accuracy/reasoning": {"correct": correct}},
    } | more


def scored(nll: list[float], tokens: list[int], name: str = "candidate") -> dict[str, Any]:
    metrics = {"perplexity/text": math.exp(sum(nll) / sum(tokens))}
    return {
        "name": name,
        "metrics": metrics,
        "context": CONTEXT,
        "samples": {"perplexity/text": {"nll": nll, "tokens": tokens}},
    }


def gate(
    new: dict[str, Any], old: dict[str, Any], metric: str = "accuracy/reasoning", **limit: float
) -> dict[str, Any]:
    return check_gate(new, old, Policy(limits={metric: Limit.model_validate(limit)}))["checks"][0]


# The bootstrap itself


def test_draws_have_the_mean_and_the_spread_of_resampled_rows() -> None:
    columns = np.random.default_rng(1).normal(size=(40, 2))
    sums = resample(columns, 20_000, seed=2)
    assert sums.shape == (20_000, 2)
    spread = np.sqrt(40 * np.cov(columns.T, bias=True).diagonal())
    assert np.abs(sums.mean(0) - columns.sum(0)).max() < 4 * spread.max() / math.sqrt(20_000)
    assert sums.std(0) == pytest.approx(spread, rel=0.03)
    together = np.corrcoef(sums.T)[0, 1]
    assert together == pytest.approx(np.corrcoef(columns.T)[0, 1], abs=0.03), "rows are drawn whole"


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = np.arange(24.0).reshape(12, 2)
    first = resample(columns, 300, seed=5)
    assert np.array_equal(first, resample(columns, 300, seed=5))
    assert not np.array_equal(first, resample(columns, 300, seed=6))
    monkeypatch.setattr("edgewright.benchmarks.statistics.COUNTS_IN_MEMORY", 50)
    assert np.array_equal(first, resample(columns, 300, seed=5)), "drawing in parts draws the same"


def test_bounds_are_those_of_the_normal_distribution_for_many_and_of_students_for_few() -> None:
    draws = np.random.default_rng(3).normal(size=400_000)
    for samples, expected in (
        (100_000, 1.6449),
        (10, 1.8331 * math.sqrt(10 / 9)),
        (5, 2.1318 * math.sqrt(5 / 4)),
    ):
        found = bounds(draws, samples, 0.95)
        assert (found.low, found.high) == pytest.approx((-expected, expected), rel=0.02)
    assert bounds(np.array([1.0, 2.0, np.inf]), 10, 0.6).high in (2.0, np.inf)
    for samples, confidence in ((1, 0.95), (10, 0.5), (10, 1.0)):
        with pytest.raises(ValueError, match="needs 2 samples"):
            bounds(draws, samples, confidence)
    with pytest.raises(ValueError, match="no samples"):
        resample(np.zeros((0, 2)), 10, 0)


def test_as_many_samples_as_were_said_to_be_needed_decide_four_times_in_five() -> None:
    shared = "1" * 350 + "0" * 20
    check = gate(
        answered(shared + "0" * 18 + "1" * 12),
        answered(shared + "1" * 18 + "0" * 12, "baseline"),
        max_drop=0.0,
    )
    assert check["verdict"] == "inconclusive"
    pairs = problem_pairs(150, problems=check["samples_needed"], lost=18 / 400, gained=12 / 400)
    assert 0.65 < verdicts(pairs, resamples=1000, max_drop=0.0)["fail"] < 0.95
    assert samples_needed(0.0, 0.0, Interval(-0.1, 0.1), 100, 0.95) is None
    assert samples_needed(2.0, 1.0, Interval(-math.inf, 3.0), 100, 0.95) is None


# How often it is wrong


@pytest.mark.parametrize("gained", [0.0, 0.005, 0.02])
def test_three_points_lost_in_a_thousand_problems_are_caught(gained: float) -> None:
    found = verdicts(
        problem_pairs(200, lost=0.03 + gained, gained=gained), resamples=2000, max_drop=0.0
    )
    assert found["fail"] >= 0.95
    assert found["pass"] == 0


def test_where_no_test_catches_more_the_gate_comes_near_it() -> None:
    """With 3 % of the answers changed for the better too, 94.1 % is all that a test of this level can catch."""
    most = most_any_test_catches(0.06, 0.03)
    assert most == pytest.approx(0.941, abs=0.001)
    found = verdicts(problem_pairs(300, lost=0.06, gained=0.03), resamples=2000, max_drop=0.0)
    assert most - 0.03 <= found["fail"] <= most + 0.03
    assert most_any_test_catches(0.02, 0.02) == pytest.approx(0.05, abs=1e-6), (
        "where nothing is lost, the level"
    )


def exact_share(problems: int, lost: float, gained: float, limit: int) -> dict[str, float]:
    """The chance of each verdict under `max_drop: limit / problems`, summed over all that can be observed."""
    share = dict.fromkeys(WORDS, 0.0)
    spread = [
        range(max(0, int(m - 4 * m**0.5 - 2)), int(m + 4 * m**0.5 + 4))
        for m in (problems * lost, problems * gained)
    ]
    for down in spread[0]:
        for up in spread[1]:
            chance = math.exp(
                math.lgamma(problems + 1)
                - math.lgamma(down + 1)
                - math.lgamma(up + 1)
                - math.lgamma(problems - down - up + 1)
                + down * math.log(lost)
                + up * math.log(gained)
                + (problems - down - up) * math.log(1 - lost - gained)
            )
            if chance > 1e-5:
                rows = np.repeat([[1.0], [-1.0], [0.0]], [down, up, problems - down - up], axis=0)
                found = bounds(resample(rows, 1000, seed=down * 100 + up)[:, 0], problems, 0.95)
                share[
                    "fail"
                    if found.low > limit
                    else "pass"
                    if found.high <= limit
                    else "inconclusive"
                ] += chance
    return share


@pytest.mark.parametrize(
    ("problems", "churn"), [(100, 0.02), (100, 0.08), (300, 0.01), (1000, 0.001), (1000, 0.004)]
)
def test_no_true_loss_fails_one_time_in_twenty_at_most(problems: int, churn: float) -> None:
    assert exact_share(problems, churn, churn, 0)["fail"] <= 0.05


def test_a_loss_exactly_at_its_limit_fails_one_time_in_twenty_at_most() -> None:
    assert exact_share(1000, 0.0105, 0.0005, 10)["fail"] <= 0.05


@pytest.mark.parametrize("windows", [16, 128])
def test_a_perplexity_exactly_at_its_limit_fails_one_time_in_twenty_and_a_worse_one_nearly_always(
    windows: int,
) -> None:
    at_limit = verdicts(window_pairs(400, windows, 1.06), TEXT, resamples=1000, max_ratio=1.06)
    assert at_limit["fail"] <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)
    assert (
        verdicts(window_pairs(60, windows, 1.15), TEXT, resamples=1000, max_ratio=1.06)["fail"]
        > 0.9
    )


def test_identical_answers_pass_and_more_right_ones_do_too() -> None:
    old = answered("1" * 95 + "0" * 5, "baseline")
    assert gate(answered("1" * 95 + "0" * 5), old, max_drop=0.0)["interval"] == (0.0, 0.0)
    for digits in ("1" * 95 + "0" * 5, "1" * 96 + "0" * 4, "1" * 100):
        for limit in ({"max_drop": 0.0}, {"min_ratio": 1.0}):
            assert gate(answered(digits), old, **limit)["verdict"] == "pass"
    assert gate(answered("1" * 94 + "0" * 6), old, max_drop=0.0)["verdict"] == "inconclusive", (
        "one lost of a hundred proves nothing"
    )


# Pairs


def test_pairing_sees_what_two_separate_intervals_would_not() -> None:
    """Three windows are hard for both sides; the candidate is 2 % worse on each one."""
    tokens = [200] * 30
    old = [20.0 + 300.0 * (i % 10 == 0) + i for i in range(30)]
    new = [loss + 200 * math.log(1.02) for loss in old]
    check = gate(
        scored(new, tokens), scored(old, tokens, "baseline"), "perplexity/text", max_ratio=1.01
    )
    assert check["verdict"] == "fail"
    assert check["interval"] == pytest.approx((1.02, 1.02))
    alone = gate(scored(new, tokens), scored(old, tokens, "baseline"), "perplexity/text", max=1.5)
    assert alone["interval"][1] - alone["interval"][0] > 0.1


def test_a_perplexity_counts_tokens_and_not_windows() -> None:
    old, new = scored([10.0, 100.0], [10, 1000], "baseline"), scored([30.0, 100.0], [10, 1000])
    check = gate(new, old, "perplexity/text", max_ratio=2.0)
    assert check["observed"] == pytest.approx(math.exp(20 / 1010))


def test_windows_and_problems_of_another_number_are_refused() -> None:
    with pytest.raises(UsageError, match="not of the same problems or windows"):
        gate(
            scored([1.0, 2.0], [3, 4]),
            scored([1.0, 2.0], [4, 3], "baseline"),
            "perplexity/text",
            max_ratio=2.0,
        )
    with pytest.raises(UsageError, match="not of the same problems or windows"):
        gate(answered("110"), answered("11", "baseline"), min_ratio=0.5)


def test_one_side_without_samples_is_decided_on_the_value_and_says_so() -> None:
    check = gate(answered("1" * 50), answered("1" * 50, "baseline", samples={}), max_drop=0.0)
    assert (check["verdict"], check["interval"], check["samples"]) == ("pass", None, None)
    assert "decided on the value" in check["note"]
    assert (
        gate(answered("1" * 50), answered("1" * 50, "baseline", samples={}), min=0.9)["samples"]
        == 50
    ), "min asks about one side"


def test_nothing_right_in_a_draw_is_no_division_by_zero() -> None:
    check = gate(answered("1000000000"), answered("1000000000", "baseline"), min_ratio=0.95)
    assert (check["verdict"], check["interval"]) == ("pass", (1.0, 1.0))
    check = gate(answered("0110000000"), answered("1000000000", "baseline"), min_ratio=0.95)
    assert check["interval"][1] is None, "a ratio to a draw with nothing right has no upper bound"
    json.dumps(check, allow_nan=False)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"correct": "1x"}, "are damaged"),
        ({"correct": ""}, "are damaged"),
        ({}, "are damaged"),
        ("11", "are damaged"),
        ({"correct": "10"}, "give 0.5, and the metric is 1"),
        ({"nll": [1.0], "tokens": [1, 2]}, "are damaged"),
        ({"nll": [1.0], "tokens": [0]}, "are damaged"),
        ({"nll": [float("nan")], "tokens": [1]}, "are damaged"),
    ],
)
def test_damaged_samples_are_refused(kept: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        gate(
            answered("11", samples={"accuracy/reasoning": kept}),
            answered("11", "baseline"),
            min_ratio=0.5,
        )
    assert caught.value.hint


def test_samples_survive_a_file(tmp_path: Path) -> None:
    dice = random.Random(4)
    windows = [(dice.random() * 300, dice.randint(1, 256)) for _ in range(50)]
    new = {
        "name": "new",
        "metrics": {},
        "context": CONTEXT,
        "samples": {"perplexity/text": window_samples(windows)},
    }
    new["metrics"] = {
        "perplexity/text": math.exp(sum(a for a, _ in windows) / sum(b for _, b in windows))
    }
    new["samples"]["accuracy/reasoning"] = problem_samples([True, False, True])
    new["metrics"]["accuracy/reasoning"] = 2 / 3
    write_lines(tmp_path / "new.json", new)
    read = load_measurement(str(tmp_path / "new.json"))
    assert read == new
    text, task = (read_scores(read, metric) for metric in ("perplexity/text", "accuracy/reasoning"))
    assert text is not None
    assert task is not None
    assert text.total == pytest.approx([a for a, _ in windows], rel=1e-6)
    assert task.total.tolist() == [1, 0, 1]


# Verdicts and what is written of them


def result(inconclusive: str = "warn") -> dict[str, Any]:
    """One passed, one failed, one open, and one that has no samples."""
    old = answered("1" * 95 + "0" * 105, "main | <b>")
    new = answered("1" * 90 + "0" * 110)
    for side, size in ((new, 90), (old, 100)):
        side["metrics"] = side["metrics"] | {"size_bytes": size}
    limits = {
        "accuracy/reasoning": {"min_ratio": 0.5, "max_drop": 0.02, "min": 0.6},
        "size_bytes": {"max_ratio": 0.95},
    }
    return check_gate(
        new, old, Policy.model_validate({"limits": limits, "inconclusive": inconclusive})
    )


def test_verdicts_of_the_whole() -> None:
    checks = result()["checks"]
    assert [(c["limit"], c["verdict"]) for c in checks] == [
        ("ratio >= 0.5", "pass"),
        ("drop <= 0.02", "inconclusive"),
        (">= 0.6", "fail"),
        ("ratio <= 0.95", "pass"),
    ]
    assert result()["verdict"] == "fail" and not result()["accepted"]
    open_check = checks[1]
    assert open_check["samples"] == 200 and open_check["samples_needed"] > 200
    low, high = open_check["interval"]
    assert low < 0.02 < high and low < open_check["observed"] < high
    assert f"about {open_check['samples_needed']:,} samples would decide" in explain(open_check)


@pytest.mark.parametrize(
    ("inconclusive", "accepted"), [("pass", True), ("warn", True), ("fail", False)]
)
def test_the_policy_says_what_an_open_question_does(inconclusive: Any, accepted: bool) -> None:
    new, old = answered("1" * 90 + "0" * 10), answered("1" * 91 + "0" * 9, "baseline")
    found = check_gate(
        new,
        old,
        Policy(limits={"accuracy/reasoning": Limit(max_drop=0.0)}, inconclusive=inconclusive),
    )
    assert (found["verdict"], found["accepted"]) == ("inconclusive", accepted)


def test_confidence_moves_the_verdict() -> None:
    new, old = answered("1" * 86 + "0" * 14), answered("1" * 90 + "0" * 10, "baseline")
    limits = {"accuracy/reasoning": Limit(max_drop=0.0)}
    found = [
        check_gate(new, old, Policy(limits=limits, confidence=c))["verdict"] for c in (0.9, 0.999)
    ]
    assert found == ["fail", "inconclusive"]


ATTRIBUTES = {
    "testsuites": (set(), set()),
    "testsuite": (
        {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
        {"skipped"},
    ),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, set()),
    "failure": ({"type"}, {"message"}),
    "skipped": (set(), {"message"}),
    "system-out": (set(), set()),
    "system-err": (set(), set()),
}
"""Required and further allowed attributes by the JUnit schema for Apache Ant, the strictest of the dialects."""
TYPES = {
    "id": r"\d+",
    "tests": r"\d+",
    "failures": r"\d+",
    "errors": r"\d+",
    "skipped": r"\d+",
    "time": r"\d+(\.\d+)?",
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "name": ".+",
    "hostname": ".+",
}
CHILDREN = {
    "testsuites": ["testsuite*"],
    "testsuite": ["properties", "testcase*", "system-out", "system-err"],
    "properties": ["property*"],
    "testcase": ["skipped?", "failure?"],
}
"""What each element holds, in order."""


def conforms(node: Xml.Element) -> None:
    required, allowed = ATTRIBUTES[node.tag]
    assert required <= set(node.keys()) <= required | allowed, node.tag
    assert all(re.fullmatch(TYPES.get(name, ".*"), value) for name, value in node.items()), (
        node.attrib
    )
    tags = [child.tag for child in node]
    for slot in CHILDREN.get(node.tag, []):
        name, many, optional = slot.rstrip("*?"), slot.endswith("*"), not slot[-1].isalpha()
        count = next((i for i, tag in enumerate(tags) if tag != name), len(tags))
        assert count >= (not optional) and (many or count <= 1), f"{node.tag}: {name}"
        tags = tags[count:]
    assert not tags, f"{node.tag}: {tags} out of place"
    for child in node:
        conforms(child)


@pytest.mark.parametrize(("inconclusive", "failures"), [("pass", 1), ("warn", 1), ("fail", 2)])
def test_junit_holds_to_the_schema(inconclusive: str, failures: int) -> None:
    found = result(inconclusive)
    found["checks"][0]["metric"] = "odd \x00 \ud800 <&>\" 'name'"
    root = Xml.fromstring(junit_xml(found).encode())
    conforms(root)
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "4",
        str(failures),
        str(2 - failures),
    )
    cases = suite.findall("testcase")
    assert len({case.get("name") for case in cases}) == 4, "a server tells cases apart by name"
    assert cases[0].get("name") == "odd ? ? <&>\" 'name' ratio >= 0.5"
    assert len(cases[0]) == 0
    told = cases[1][0]
    assert told.tag == ("failure" if inconclusive == "fail" else "skipped")
    assert "samples would decide" in told.get("message", "")


def test_markdown_is_a_table_that_nothing_breaks() -> None:
    text = markdown_text(result())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {row.count("|") - row.count("\\|") for row in rows} == {9}
    assert "### edgewright gate: ❌ **fail**" in text
    assert "main \\| &lt;b&gt;" in text
    assert "⚠️ inconclusive" in text and "needs about" in text
    assert "one-sided bound at 0.95" in text
