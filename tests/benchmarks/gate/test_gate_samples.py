"""Paired samples: what the gate makes of them, and which ones it refuses."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from gate_samples import CONTEXT, answered, gate, scored

from edgewright.benchmarks.measurement_files import (
    load_measurement,
    problem_samples,
    read_scores,
    window_samples,
    write_measurement,
)
from edgewright.errors import UsageError


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
    old = scored([10.0, 100.0], [10, 1000], "baseline")
    new = scored([30.0, 100.0], [10, 1000])
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


@pytest.mark.parametrize("answers", ["0" * 10, "1" * 9 + "0"])
def test_what_is_not_worse_than_nothing_right_passes(answers: str) -> None:
    check = gate(answered(answers), answered("0" * 10, "baseline"), min_ratio=0.95)
    assert (check["verdict"], check["observed"], check["interval"]) == ("pass", None, None)


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
    write_measurement(tmp_path / "new.json", new)
    read = load_measurement(str(tmp_path / "new.json"))
    assert read == new
    text, task = (read_scores(read, metric) for metric in ("perplexity/text", "accuracy/reasoning"))
    assert text is not None
    assert task is not None
    assert text.total == pytest.approx([a for a, _ in windows], rel=1e-6)
    assert task.total.tolist() == [1, 0, 1]
