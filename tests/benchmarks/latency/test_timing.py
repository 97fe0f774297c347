"""Comparing timings: a difference of 10 % is found, equal ones are alike, even with noise."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from edgewright.benchmarks.latency.latency import (
    Worker,
    compare_sides,
    round_metrics,
    take_turns,
    warm_up,
)
from edgewright.benchmarks.latency.timing import compare, median_interval, settled
from edgewright.benchmarks.latency.worker import Round
from edgewright.errors import EdgewrightError
from edgewright.export.onnx.export import export_onnx


class Machine:
    """Simulated timings of a shared machine: a slow drift, noise, and occasional doubled rounds."""

    def __init__(self, seed: int, noise: float = 0.04, spikes: float = 0.1) -> None:
        self.random, self.noise, self.spikes, self.rounds = random.Random(seed), noise, spikes, 0

    def seconds(self, expected: float) -> float:
        self.rounds += 1
        spike = 2.0 if self.random.random() < self.spikes else 1.0
        return (
            expected
            * (1 + 0.3 * math.sin(self.rounds / 9))
            * spike
            * self.random.lognormvariate(0, self.noise)
        )

    def side(self, expected: float):
        return lambda: Round(self.seconds(expected / 5), [self.seconds(expected)])


def test_a_tenth_slower_is_found_and_the_same_is_not_flagged() -> None:
    trials = 150
    slower = [
        compare_sides([m.side(1.1), m.side(1.0)], 15)["decode"].verdict
        for m in map(Machine, range(trials))
    ]
    assert slower.count("slower") >= 0.97 * trials
    faster = [
        compare_sides([m.side(1.0), m.side(1.1)], 15)["decode"].verdict
        for m in map(Machine, range(trials))
    ]
    assert faster.count("faster") >= 0.97 * trials
    same = [
        one.verdict
        for m in map(Machine, range(trials))
        for one in compare_sides([m.side(1.0)] * 2, 15).values()
    ]
    assert same.count("slower") + same.count("faster") <= 0.02 * len(same)


@pytest.mark.parametrize(
    ("count", "confidence", "bounds"),
    [(8, 0.99, (0, 7)), (15, 0.99, (2, 12)), (7, 0.99, None), (7, 0.98, (0, 6))],
)
def test_the_interval_of_a_median_is_that_of_the_binomial(
    count: int, confidence: float, bounds: tuple[int, int] | None
) -> None:
    """Of 15: 2 * (1 + 15 + 105) / 2^15 = 0.0074 <= 0.01, and with 455 more it is not."""
    values = random.Random(0).sample(range(count), count)
    assert median_interval(values, confidence) == (bounds or (-math.inf, math.inf))


def test_the_interval_of_a_median_covers_it_as_often_as_it_says() -> None:
    draw = random.Random(1)
    missed = 0
    for _ in range(2000):
        low, high = median_interval([draw.expovariate(1) for _ in range(21)], 0.95)
        missed += not low <= math.log(2) <= high
    assert missed / 2000 <= 0.05


def test_verdicts_keep_a_margin() -> None:
    one, clearly, barely = [1.0] * 10, [1.05] * 10, [1.015] * 10
    assert [compare(side, one).verdict for side in (clearly, barely, one)] == [
        "slower",
        "alike",
        "alike",
    ]
    assert compare(one, clearly).verdict == "faster"
    assert compare([0.8, 1.2] * 5, one).verdict == "unclear"
    with pytest.raises(ValueError, match="zip"):
        compare(one, one[1:])


def test_warming_up_ends_when_rounds_are_as_fast_as_before() -> None:
    assert not settled([3.0, 2.0, 1.5, 1.2, 1.1])
    assert not settled([3.0, 2.0, 1.5, 1.2, 1.1, 1.05])
    assert settled([3.0, 2.0, 1.06, 1.05, 1.04, 1.03, 1.04, 1.03])
    seconds = iter([5.0, 3.0, 2.0, 1.5, 1.2, 1.1, *[1.0] * 20])
    assert 6 < warm_up(lambda: Round(next(seconds), [])) < 15
    assert warm_up(lambda: Round(random.random(), []), most=4) == 4, (
        "a machine that never settles is measured all the same"
    )


def test_sides_take_turns_and_none_is_always_second() -> None:
    order: list[str] = []
    sides = [lambda name=name: order.append(name) or Round(1.0, [1.0]) for name in "ab"]
    assert [len(side) for side in take_turns(sides, 3)] == [3, 3]
    assert "".join(order) == "abbaab"


def test_figures_are_of_the_rounds() -> None:
    found = round_metrics(
        [Round(0.2, [0.1, 0.1]), Round(0.4, [0.1, 0.3]), Round(0.2, [0.1, 0.1])], prompt=32, batch=2
    )
    assert (found["ttft_ms/p50"], found["ttft_ms/p99"]) == (200.0, 400.0)
    assert found["prefill_tok_s"] == pytest.approx(2 * 32 / 0.2)
    assert found["decode_tok_s/p50"] == pytest.approx(2 * 2 / 0.2)
    assert found["token_ms/p99"] == pytest.approx(300.0)
    assert found["ttft_ms/cv"] > 0.3
    assert "joules_per_token" not in found
    assert round_metrics([Round(0.2, [0.1, 0.1, 0.1], 6.0)] * 2, prompt=32, batch=2)[
        "joules_per_token"
    ] == pytest.approx(6.0 / 8)


@pytest.fixture(scope="module")
def artifact(make_model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its workers start without torch."""
    path = tmp_path_factory.mktemp("timed") / "onnx"
    export_onnx(make_model("llama"), path, "fp32")
    return path


def test_two_models_are_timed_in_turns_from_the_command_line(cli, artifact: Path) -> None:
    path = artifact
    short = ("--prompt", 8, "--new-tokens", 2, "--runs", 2)
    code, out, _ = cli(
        "bench", path, "--against", path, *short, "--batches", "2", "--prompts", "16", "--json"
    )
    assert code == 0
    result = json.loads(out)
    assert {result["against"][key]["rounds"] % 8 for key in ("ttft", "decode")} == {0}
    metrics = result["metrics"]
    assert metrics["peak_rss_bytes"] == max(
        metrics[f"peak_rss_bytes/{phase}"] for phase in ("load", "prefill", "decode")
    )
    assert metrics["kv_cache_bytes/2048"] == 3 * 2 * 2 * 64 * 2 * 2048
    assert (
        metrics["decode_tok_s/p50/batch2-prompt8"] > 0
        and metrics["ttft_ms/p50/batch1-prompt16"] > 0
    )
    assert result["context"]["affinity"] and result["context"]["warm_rounds"] >= 6
    code, _, err = cli("bench", path, "--latency", "--batches", "two")
    assert code == 2 and "batches" in err
    code, _, err = cli("bench", path, "--against", path / "nowhere")
    assert code == 2 and "--against" in err


def test_a_worker_that_dies_says_why(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgewrightError, match="the latency measurement failed"):
        Worker(tmp_path, "cpu", 1)
    with Worker(artifact, "cpu", 1) as worker, pytest.raises(EdgewrightError, match="KeyError"):
        worker.round({})
