"""The samples of a measurement: in the order of rows and problems, and equal to the metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Policy
from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.measurement_files import answers_file, load_measurement, read_scores
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.accuracy import score_text
from edgewright.benchmarks.tasks.backends import open_backend
from edgewright.data.packing import IGNORE, Encoded
from edgewright.errors import UsageError
from edgewright.pipeline.bench import bench_path


def test_windows_are_kept_in_the_order_of_the_rows(make_model) -> None:
    """Batches are sorted by length. Samples must not be, or two sides would be paired wrongly."""
    backend = open_backend(make_model("llama"), "cpu")
    texts = [
        [(7 * i + k) % 500 + 5 for k in range(length)]
        for i, length in enumerate((5, 30, 12, 30, 3))
    ]
    rows = [Encoded(ids, ids) for ids in texts]
    together = score_text(backend, rows).windows
    for row, (nll, tokens) in zip(rows, together, strict=True):
        ((alone, count),) = score_text(backend, [row]).windows
        assert tokens == count == len(row.ids) - 1
        assert nll == pytest.approx(alone, rel=1e-4)
    assert len({round(nll, 3) for nll, _ in together}) == len(rows)


def test_losses_over_a_large_vocabulary_are_exact() -> None:
    """Against float64: torch's cross_entropy in float32 is wrong by 4e-4 here."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 262_144, generator=generator)

    class Fixed:
        name = "fixed"

        def logits(self, ids, mask):
            return logits[: len(ids), : ids.shape[1]]

    rows = [Encoded([5, 17, 99], [5, 17, 99]), Encoded([5, 70, 3], [5, IGNORE, 3])]
    found = [
        window for row in range(2) for window in score_text(Fixed(), rows[row : row + 1]).windows
    ]
    log = logits[0].double().log_softmax(-1)
    expected = [-(log[0, 17] + log[1, 99]), -log[1, 3]]
    for (nll, _), truth in zip(found, expected, strict=True):
        assert nll == pytest.approx(float(truth), abs=2e-5)


def test_a_saved_measurement_is_one_that_the_gate_pairs(make_model, text_file, tmp_path) -> None:
    source = f"text:{text_file}"
    options = EvaluateOptions(
        tasks=("reasoning",),
        limit=6,
        max_new_tokens=4,
        perplexity=(source,),
        windows=5,
        seq_len=32,
        latency=None,
    )
    bench_path(make_model("llama"), options, "cpu", None, tmp_path / "new.json")
    saved = load_measurement(str(tmp_path / "new.json"))
    label = next(
        m for m in saved["metrics"] if m.startswith("perplexity/") and m.count("/") == 1
    ).partition("/")[2]
    counts = {
        metric: len(scores.total)
        for metric in saved["samples"]
        if (scores := read_scores(saved, metric))
    }
    assert counts == {f"perplexity/{label}": 5, "accuracy/reasoning": 6}
    assert len(saved["context"]["problems_hash/reasoning"]) == 16
    assert json.loads((tmp_path / "new.json").read_text())["name"]
    answers = [json.loads(x) for x in (tmp_path / "new.answers.jsonl").read_text().splitlines()]
    verdicts = "".join("1" if answer["correct"] else "0" for answer in answers)
    assert verdicts == saved["samples"]["accuracy/reasoning"]["correct"]
    assert all({"question", "expected", "text"} <= answer.keys() for answer in answers)
    result = check_gate(
        saved, saved, Policy.model_validate({"limits": {f"perplexity/{label}": {"max_ratio": 1.0}}})
    )
    assert (result["verdict"], result["checks"][0]["interval"]) == ("pass", (1.0, 1.0))


def test_a_model_is_measured_by_its_name() -> None:
    options = EvaluateOptions(
        perplexity=("builtin:reasoning",), windows=2, seq_len=64, latency=None
    )
    model = Path("builtin:tiny-reasoner")
    found = bench_path(model, options, "cpu", reference=model, save=None)
    assert found["name"] == "builtin:tiny-reasoner"
    assert found["metrics"]["kl/reasoning"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(UsageError, match="no such model directory"):
        bench_path(Path("nothing"), options, "cpu", reference=None, save=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"perplexity": ("builtin:reasoning", "text:nope.txt")},
        {"tasks": ("reasoning", "qa:nope.jsonl")},
    ],
)
def test_data_that_is_not_there_is_found_before_the_model_is_opened(
    make_model, wrong, monkeypatch
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("the model was opened")

    monkeypatch.setattr("edgewright.benchmarks.measure.open_backend", opened)
    with pytest.raises(UsageError, match="no such file: nope"):
        measure(make_model("llama"), EvaluateOptions(**wrong))


@pytest.mark.parametrize(
    ("saved", "answers"),
    [
        ("int4.json", "int4.answers.jsonl"),
        ("v0.2.json", "v0.2.answers.jsonl"),
        ("m.v1", "m.v1.answers.jsonl"),
        ("m.txt", "m.txt.answers.jsonl"),
        ("m", "m.answers.jsonl"),
    ],
)
def test_each_measurement_has_its_own_file_of_answers(saved: str, answers: str) -> None:
    assert answers_file(Path("runs.d") / saved) == Path("runs.d") / answers
