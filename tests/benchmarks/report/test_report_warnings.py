"""What a reader must see first: what the device refuses, and training that went wrong."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from report_ledger import Page, made_plan, make_ledger

from edgewright.benchmarks.report.device_summary import device_summary
from edgewright.benchmarks.report.loss_warnings import loss_warnings, rise_of
from edgewright.benchmarks.report.report import render_html, render_markdown

REFUSAL = "opset 21 is newer than TensorRT reads (nearest: --format gguf)"


def refused_ledger() -> dict[str, Any]:
    """A run whose gate passed, and whose candidate the device refuses."""
    ledger = make_ledger()
    ledger["gate"]["verdict"] = "pass"
    ledger["plan"]["rows"][1]["refused"] = [REFUSAL]
    return ledger


@pytest.mark.parametrize("render", [render_html, render_markdown])
def test_a_refusal_of_the_device_stands_before_a_gate_that_passed(
    render: Callable[[dict[str, Any]], str],
) -> None:
    text = render(refused_ledger())
    shown = text.index("opset 21 is newer")
    assert text.index("On jetson") < shown < text.index("Gate:")
    assert "export-int4 refused" in re.sub(r"\\|<[^>]+>", "", text)
    assert text.count("opset 21 is newer") == 1


def test_a_refusal_is_marked_in_words_and_colour() -> None:
    page = Page(render_html(refused_ledger()))
    sections = [
        value for tag, name, value in page.attributes if (tag, name) == ("section", "class")
    ]
    assert sections[:2] == ["card verdict fail", "card verdict pass"]
    assert "✗ refused" in page.texts


def test_limits_stand_behind_the_gate_and_are_not_repeated() -> None:
    ledger = make_ledger()
    for row in ledger["plan"]["rows"]:
        row["violations"] = ["the same limit"]
    text = render_html(ledger)
    assert text.index("Gate:") < text.index("export-int4 fits, with limits")
    assert text.count("the same limit") == 1
    assert "<span>export-int4, baseline</span>" in text  # the candidate first


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "pass"),
        ({"fits": False}, "fail"),
        ({"fits": None}, ""),
        ({"violations": ["slow"]}, "inconclusive"),
        ({"refused": ["no"], "fits": True}, "fail"),
    ],
)
def test_verdict_of_a_plan(change: dict[str, Any], verdict: str) -> None:
    plan = made_plan()
    plan["rows"][1] |= change
    found = device_summary(plan, "export-int4")
    assert found and found.verdict == verdict
    assert found.prediction == (
        "5.10 of 6.20 GB, 76.9 to 130 tok/s, 13.3 to 30.0 ms to the first token"
    )


def test_without_a_device_there_is_no_summary() -> None:
    assert device_summary({"target": None, "rows": made_plan()["rows"]}, "x") is None
    assert device_summary({}, "x") is None
    unknown = device_summary(made_plan(), "no such step")
    assert unknown and unknown.heading == "no prediction"


def curve(shape: Callable[[float], float], noise: float, count: int = 200) -> list[float]:
    dice = random.Random(3)
    return [shape(i / count) + noise * dice.gauss(0, 1) for i in range(count)]


FALLS = {
    "falls": curve(lambda x: 2 * math.exp(-3 * x), 0.05),
    "falls and stays, noisily": curve(lambda x: 0.5 + 2 * math.exp(-20 * x), 0.3),
    "flat": curve(lambda x: 1.0, 0.2),
    "too short": [3.0, 2.0, 1.0, 9.0],
    "rises by a hair": curve(lambda x: 1 + 0.02 * x, 0.001),
}
RISES = {
    "rises": curve(lambda x: 1 + x, 0.1),
    "falls, then rises": curve(lambda x: 0.5 + 4 * (x - 0.5) ** 2, 0.05),
    "jumps at the end": curve(lambda x: 5.0 if x > 0.9 else 1.0, 0.05),
}


@pytest.mark.parametrize("name", FALLS)
def test_a_loss_that_falls_or_only_wavers_is_no_warning(name: str) -> None:
    assert rise_of(FALLS[name]) is None


@pytest.mark.parametrize("name", RISES)
def test_a_loss_that_rises_is_flagged(name: str) -> None:
    rise = rise_of(RISES[name])
    assert rise and rise[0] < rise[1]
    ledger = make_ledger()
    ledger["steps"][2]["details"]["loss"]["logits"] = RISES[name]
    text = " ".join(Page(render_html(ledger)).texts)
    assert "Warnings" in text
    assert "the training loss of stage logits rose again at the end" in text
    assert "It rose again at the end." in text  # at the chart
    assert "the training loss of stage logits rose" in render_markdown(ledger)


def test_the_ledger_of_the_other_tests_has_no_warning() -> None:
    assert list(loss_warnings(make_ledger()["steps"])) == []
    assert "Warnings" not in Page(render_html(make_ledger())).texts


def test_held_out_losses_and_losses_that_are_no_numbers() -> None:
    details = {
        "loss": {"labels": [1.0, math.nan, 0.9]},
        "held_out": {
            "labels": [[0, 2.0], [10, 1.0], [20, 1.5]],
            "logits": [[0, 2], [1, 1], [2, 1]],
        },
    }
    found = list(loss_warnings([{"name": "distill", "details": details}]))
    assert [name for name, _ in found] == ["distill", "distill"]
    assert "was no finite number in 1 steps" in found[0][1]
    assert "the held-out loss of stage labels rose from 1.00 to 1.50" in found[1][1]


def test_recipe_environment_and_tables_of_details_are_collapsed() -> None:
    page = Page(render_html(make_ledger()))
    summaries = page.html.count("<summary>")
    assert summaries == page.html.count("<details>") >= 6
    assert not re.findall(r"<details [^>]*open", page.html)
    before = page.html.split("<details>")[0]
    assert "Gate:" in before and "On jetson" in before and "<svg" in before
    assert "recipe.yaml" not in before and "Example CPU" not in before
