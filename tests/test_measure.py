"""What a measurement keeps of its samples: in the order of rows and problems, and in agreement with the metrics."""

from __future__ import annotations

import json

import pytest

from edgewright.benchmarks.accuracy import score_text
from edgewright.benchmarks.backends import open_backend
from edgewright.benchmarks.gate import check_gate
from edgewright.benchmarks.measure import EvaluateOptions, bench_path
from edgewright.benchmarks.measurements import load_measurement, read_scores
from edgewright.benchmarks.policy import Policy
from edgewright.data.packing import Encoded


def test_windows_are_kept_in_the_order_of_the_rows(make_model) -> None:
    """Batches go by length, and samples must not, or two sides that batch otherwise would be paired wrongly."""
    backend = open_backend(make_model("llama"), "cpu")
    texts = [[(7 * i + k) % 500 + 5 for k in range(length)] for i, length in enumerate((5, 30, 12, 30, 3))]
    rows = [Encoded(ids, ids) for ids in texts]
    together = score_text(backend, rows).windows
    for row, (nll, tokens) in zip(rows, together, strict=True):
        ((alone, count),) = score_text(backend, [row]).windows
        assert tokens == count == len(row.ids) - 1
        assert nll == pytest.approx(alone, rel=1e-4)
    assert len({round(nll, 3) for nll, _ in together}) == len(rows)


def test_a_saved_measurement_is_one_that_the_gate_pairs(make_model, text_file, tmp_path) -> None:
    source = f"text:{text_file}"
    options = EvaluateOptions(tasks=("reasoning",), limit=6, max_new_tokens=4, perplexity=(source,), windows=5, seq_len=32, latency=None)
    bench_path(make_model("llama"), options, "cpu", None, tmp_path / "new.json")
    saved = load_measurement(str(tmp_path / "new.json"))
    label = next(m for m in saved["metrics"] if m.startswith("perplexity/") and m.count("/") == 1).partition("/")[2]
    counts = {metric: len(scores.total) for metric in saved["samples"] if (scores := read_scores(saved, metric))}
    assert counts == {f"perplexity/{label}": 5, "accuracy/reasoning": 6}
    assert len(saved["context"]["problems_hash/reasoning"]) == 16
    assert json.loads((tmp_path / "new.json").read_text())["name"]
    result = check_gate(saved, saved, Policy.model_validate({"limits": {f"perplexity/{label}": {"max_ratio": 1.0}}}))
    assert (result["verdict"], result["checks"][0]["interval"]) == ("pass", (1.0, 1.0))
