"""A short soak of a real server process: no honest error, every attack refused, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.export.onnx.export import export_onnx
from edgewright.perf.soak.hostile import ATTACKS
from edgewright.perf.soak.requests import requests
from edgewright.perf.soak.run import Result, add_tools, served, soak
from edgewright.perf.soak.watch import Samples, slope


@pytest.fixture(scope="module")
def result(make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("soak")
    model = make_model("llama", num_hidden_layers=1, max_position_embeddings=1024)
    export_onnx(model, folder / "tiny", "fp32")
    add_tools(folder / "tiny")
    with served(folder / "tiny", folder) as server:
        return soak(server, clients=20, seconds=10)


def test_nothing_that_must_not_happen_happens(result: Result) -> None:
    assert result.faults() == []


def test_there_were_requests_and_attacks(result: Result) -> None:
    assert result.honest.done.total() > 0
    assert result.hostile.done.total() > 0
    assert set(result.hostile.done) <= set(ATTACKS)
    assert result.samples.health_seconds
    assert "honest errors | 0 |" in result.table()


def test_all_kinds_of_answers_are_asked_for(result: Result) -> None:
    """Also tools, formats and conversations, whose prompts are reused."""
    assert result.asked == {one.kind for one in requests()}
    assert result.reused > 0


def test_growth_is_measured_after_the_warm_up() -> None:
    times = [float(second) for second in range(0, 120, 2)]
    grown = [1e9 * min(second, 60) + 2e6 / 60 * max(0.0, second - 60) for second in times]
    assert Samples(times, grown).memory_slope(60) == pytest.approx(2)
    assert slope([1.0], [5.0]) == 0
