"""The verdict on a device's answers: pass, fail, inconclusive, and what cannot be judged."""

from __future__ import annotations

from typing import Any

import pytest

from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.measurement_files import problem_samples
from edgewright.targets.acceptance.judge import Judge, Known

ANSWERS = {"answers": {"reference": "abc", "questions": 16}}


def answered(
    hits: int, count: int = 512, garbage: int = 0, kl: float = 1e-4, **more: float
) -> dict[str, Any]:
    """A measurement of a device."""
    right = [at < hits for at in range(count)]
    bad = [at < garbage for at in range(16)]
    metrics = {"answers/top1": hits / count, "answers/top1/n": count, "answers/kl": kl}
    metrics |= {"answers/garbage": garbage / 16, "answers/garbage/n": 16, "answers/prefix": 0.5}
    samples = {"answers/top1": problem_samples(right), "answers/garbage": problem_samples(bad)}
    return {
        "name": "int4",
        "metrics": metrics | more,
        "context": {**ANSWERS, "board": "Orin"},
        "samples": samples,
    }


def task(name: str, correct: int, count: int) -> dict[str, Any]:
    """A measurement of a task."""
    right = [at < correct for at in range(count)]
    return {
        "name": name,
        "metrics": {"accuracy/qa": correct / count},
        "context": {"problems/qa": count, "problems_hash/qa": "1"},
        "samples": {"accuracy/qa": problem_samples(right)},
    }


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    parts = ("metrics", "context", "samples")
    return {"name": one["name"], **{part: one[part] | other[part] for part in parts}}


@pytest.mark.parametrize(
    ("device", "verdict"),
    [
        (answered(512), "pass"),
        (answered(508), "pass"),
        (answered(485), "fail"),
        (answered(497), "inconclusive"),
        (answered(512, garbage=16), "fail"),
        (answered(512, kl=0.05), "fail"),
        (answered(512, kl=float("inf")), "fail"),
        (answered(24, count=24), "pass"),
    ],
)
def test_the_declared_limits(device: dict[str, Any], verdict: str) -> None:
    judgement = Judge(Policy()).judge(device)
    assert judgement.gate is not None
    assert judgement.gate["verdict"] == verdict
    assert judgement.accepted == (verdict != "fail")
    assert Judge(Policy(inconclusive="fail")).judge(device).accepted == (verdict == "pass")


def test_a_known_difference_is_allowed() -> None:
    device = answered(470, kl=0.05)
    known = Known(agreement=0.93, kl=0.04, where="the run")
    assert not Judge(Policy()).judge(device).accepted
    assert Judge(Policy(), known=known).judge(device).accepted
    assert not Judge(Policy(), known=known).judge(answered(380, kl=0.5)).accepted


def test_without_probabilities_equal_beginnings_count() -> None:
    device = answered(512)
    for name in ("answers/top1", "answers/top1/n", "answers/kl"):
        del device["metrics"][name]
    assert Judge(Policy()).judge(device).accepted
    device["metrics"]["answers/prefix"] = 0.05
    gate = Judge(Policy()).judge(device).gate
    assert gate is not None
    assert {c["metric"]: c["verdict"] for c in gate["checks"]} == {
        "answers/prefix": "fail",
        "answers/garbage": "pass",
    }


@pytest.mark.parametrize(("correct", "verdict"), [(98, "pass"), (20, "fail"), (94, "inconclusive")])
def test_tasks_are_compared_with_the_hosts(correct: int, verdict: str) -> None:
    device = merged(answered(512), task("int4", correct, 100))
    judge = Judge(Policy(), task("baseline", 98, 100))
    gate = judge.judge(device).gate
    assert gate is not None
    assert gate["verdict"] == verdict
    assert {check["metric"] for check in gate["checks"]} >= {"accuracy/qa", "answers/top1"}


def test_the_policy_of_the_host() -> None:
    limits = {
        "accuracy/qa": Limit(max_drop=0.5),
        "answers/top1": Limit(min=0.2),
        "perplexity/wiki": Limit(max_ratio=1.1),
        "decode_tok_s/p50": Limit(min_ratio=0.9),
        "ttft_ms/p50": Limit(max=100),
    }
    baseline = task("baseline", 98, 100)
    baseline["metrics"]["decode_tok_s/p50"] = 9.0
    device = merged(answered(300), task("int4", 60, 100))
    device["metrics"] |= {"decode_tok_s/p50": 30.0, "ttft_ms/p50": 20.0}
    judgement = Judge(Policy(limits=limits), baseline).judge(device)
    assert judgement.gate is not None
    verdicts = {check["metric"]: check["verdict"] for check in judgement.gate["checks"]}
    assert verdicts == {
        "accuracy/qa": "pass",
        "answers/top1": "pass",
        "ttft_ms/p50": "pass",
        "answers/kl": "pass",
        "answers/garbage": "pass",
    }
    notes = "\n".join(judgement.notes)
    assert "perplexity/wiki was not judged on the device: it was not measured there" in notes
    assert "decode_tok_s/p50 was not judged on the device" in notes


def test_other_questions_are_not_compared() -> None:
    device = task("int4", 60, 100)
    baseline = task("baseline", 98, 100)
    baseline["context"]["problems_hash/qa"] = "2"
    judgement = Judge(Policy(), baseline).judge(device)
    assert judgement.gate is None
    assert judgement.accepted
    assert "problems_hash/qa differs" in judgement.notes[0]
    assert "nothing was judged" in judgement.notes[1]
