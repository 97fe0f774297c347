"""Policies that cannot do what a gate is for are refused; too few samples are said."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_samples import answered

from edgewright.benchmarks.bootstrap import unanimous, unanimous_needed
from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy, load_policy
from edgewright.errors import UsageError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("accuracy/r: {min_ratio: 0.9}\naccuracy/r: {min_ratio: 0.1}\n", "given twice"),
        ("accuracy/r: {min_ratio: 0.9, min_ratio: 0.1}\n", "given twice"),
        ("{}\n", "an empty policy limits nothing"),
        ("limits: {}\n", "an empty policy limits nothing"),
        ("accuracy: {min: 0.5}\n", "no such metric `accuracy`"),
        ("accuracy/r: {max: 0.9}\n", "this limit stops no regression"),
        ("accuracy/r: {max_ratio: 1.5}\n", "this limit stops no regression"),
        ("size_bytes: {min_ratio: 0.5}\n", "this limit stops no regression"),
        ("perplexity/t: {max_drop: 0.5}\n", "less of it is better"),
        ("accuracy/r: {min: 90}\n", "between 0 and 1"),
        ("accuracy/r: {min: .inf}\n", "finite"),
        ("accuracy/r: {min_ratio: .nan}\n", "finite"),
        ("accuracy/r: {min_ratio: 0}\n", "greater than 0"),
        ("accuracy/r: {min_ratio: -1}\n", "greater than 0"),
        ("accuracy/r: {min: true}\n", "is no number"),
        ('accuracy/r: {min: "0.9"}\n', "is no number"),
        ("size_bytes: {max: -5}\n", "at least 0"),
        ("[[[\n", "not a mapping"),
        ("a: &a [*a]\n", "policy.yaml"),
    ],
)
def test_useless_policies_are_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_policy(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_band_around_a_metric_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(
        "accuracy/r: {min: 0.5, max: 0.99}\nparameters: {min_ratio: 0.9, max_ratio: 1}\n"
    )
    assert load_policy(file).limits["accuracy/r"] == Limit(min=0.5, max=0.99)


def test_two_problems_do_not_prove_a_high_accuracy() -> None:
    two = answered("11")
    check = check_gate(two, two, Policy(limits={"accuracy/reasoning": Limit(min=0.99)}))["checks"][
        0
    ]
    assert check["verdict"] == "inconclusive"
    assert check["interval"] == (pytest.approx(0.05**0.5), 1.0)
    assert check["samples_needed"] == 299
    assert "only 2 samples" in check["note"]
    many = answered("1" * 299)
    assert (
        check_gate(many, many, Policy(limits={"accuracy/reasoning": Limit(min=0.99)}))["verdict"]
        == "pass"
    )


def test_few_samples_are_said_with_every_limit() -> None:
    few = answered("10110")
    check = check_gate(few, few, Policy())["checks"][0]
    assert (check["verdict"], check["note"]) == ("pass", "only 5 samples, which prove little")
    one = answered("1")
    check = check_gate(one, one, Policy())["checks"][0]
    assert check["note"] == "only 1 sample, which prove little: decided on the value"


def test_the_bound_of_samples_that_all_agree_is_exact() -> None:
    bound = unanimous(1.0, 50, 0.95).low
    assert bound**50 == pytest.approx(0.05)
    assert unanimous(0.0, 50, 0.95).high == pytest.approx(1 - bound)
    needed = unanimous_needed(1.0, 0.9, 0.95)
    assert needed is not None
    assert unanimous(1.0, needed, 0.95).low >= 0.9 > unanimous(1.0, needed - 1, 0.95).low
    assert unanimous_needed(1.0, 1.0, 0.95) is None
