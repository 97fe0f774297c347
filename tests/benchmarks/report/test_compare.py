"""Runs beside each other, and the model card that each output directory has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from edgewright.benchmarks.measurement_files import problem_samples
from edgewright.benchmarks.report.compare import compare_runs
from edgewright.benchmarks.report.model_card import write_card
from edgewright.checkpoints.hashing import content_hash
from edgewright.errors import UsageError
from edgewright.pipeline.registry import STEPS

CONTEXT = {
    "problems/sums": 200,
    "problems_hash/sums": "a",
    "device": "cpu",
    "threads": 2,
    "backend": "torch",
    "dtype": "float32",
}


def make_run(folder: Path, right: int, context: dict[str, Any] | None = None) -> Path:
    """A run whose baseline is always right; its candidate is right on the first `right` of 200."""
    steps = []
    (folder / "samples").mkdir(parents=True)
    for name, count in (("baseline", 200), ("small", right)):
        correct = [i < count for i in range(200)]
        metrics = {
            "accuracy/sums": count / 200,
            "accuracy/sums/n": 200,
            "accuracy/sums/stderr": 0.01,
            "size_bytes": 1e6 * (1 + count),
        }
        (folder / "samples" / f"{name}.json").write_text(
            json.dumps({"accuracy/sums": problem_samples(correct)})
        )
        steps.append(
            {
                "name": name,
                "kind": "quantize",
                "metrics": metrics,
                "context": CONTEXT | (context or {}),
                "samples": f"samples/{name}.json",
                "config": {"bits": 4, "rules": []},
                "notes": ["made"],
                "seconds": 1.0,
                "details": {},
                "fingerprint": "0",
                "output": name,
            }
        )
    (folder / "ledger.json").write_text(json.dumps({"schema": 1, "steps": steps}))
    return folder


def test_runs_are_compared_pairwise_where_they_are_alike(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", 190)
    worse = make_run(tmp_path / "worse", 170)
    other = make_run(tmp_path / "other", 190, {"problems_hash/sums": "b"})
    found = compare_runs([str(first), str(worse), f"{first}:baseline", str(other)])
    assert [row["name"] for row in found["rows"]] == [
        "first:small",
        "worse:small",
        "first:baseline",
        "other:small",
    ]
    verdicts = [one["accuracy/sums"].get("verdict") for one in found["against_first"]]
    assert verdicts == ["fail", "pass", None]
    assert found["against_first"][0]["accuracy/sums"]["observed"] == pytest.approx(0.1)
    assert "problems_hash/sums differs" in found["against_first"][2]["accuracy/sums"]["unlike"]


def test_runs_in_directories_of_the_same_name_are_told_apart(cli, tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / place, 150 + 10 * at)
        for at, place in enumerate(("main/runs/demo", "pr/runs/demo", "demo", "runs/other"))
    ]
    found = compare_runs([*map(str, runs), f"{runs[0]}:baseline", str(runs[1])])
    assert [row["name"] for row in found["rows"]] == [
        "main/runs/demo:small",
        "pr/runs/demo:small",
        f"{tmp_path.name}/demo:small",
        "other:small",
        "main/runs/demo:baseline",
        "pr/runs/demo:small (2)",
    ]
    code, out, _ = cli("compare", *runs[:2], "--html", tmp_path / "c.html")
    assert code == 0 and "against main/runs/demo:small" in out and "pr/runs/demo:small" in out
    assert "pr/runs/demo:small" in (tmp_path / "c.html").read_text()


def test_the_command_line_writes_a_page_and_markdown(cli, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, right) for name, right in (("a", 190), ("b", 150))]
    code, out, _ = cli(
        "compare", *runs, "--html", tmp_path / "c.html", "--markdown", tmp_path / "c.md"
    )
    assert code == 0 and "b:small" in out and "fail" in out
    page = (tmp_path / "c.html").read_text()
    text = (tmp_path / "c.md").read_text()
    assert "<svg" in page and "worse" in page and "edgewright compare" in page
    assert "| b:small | accuracy/sums | 0.2000 |" in text
    code, _, err = cli("compare", runs[0])
    assert code == 2 and "nothing to compare" in err
    code, _, err = cli("compare", runs[0], f"{runs[1]}:large")
    assert code == 2 and "baseline, small" in err


def test_a_run_without_a_ledger_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no ledger"):
        compare_runs([str(tmp_path), str(tmp_path)])


def entry_of(run: Path, name: str) -> dict[str, Any]:
    return next(
        step
        for step in json.loads((run / "ledger.json").read_text())["steps"]
        if step["name"] == name
    )


def test_a_card_is_valid_metadata_with_measured_numbers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 180)
    source = tmp_path / "model"
    source.mkdir()
    (source / "README.md").write_text(
        "---\nlicense: mit\nlanguage: [en]\nwidget: []\n---\n# A model\n"
    )
    folder = tmp_path / "made | `odd`"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = content_hash(folder)
    path = write_card(
        folder,
        entry_of(run, "small"),
        STEPS["quantize"],
        "someone/Model-1B",
        source,
        "edgewright run x.yaml",
        entry_of(run, "baseline"),
    )
    assert content_hash(folder) == before, "a card is no part of what a directory holds"
    card = ModelCard.load(path)
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["base_model"]) == (
        "mit",
        ["en"],
        "someone/Model-1B",
    )
    assert (data["library_name"], data["pipeline_tag"], data["base_model_relation"]) == (
        "transformers",
        "text-generation",
        "quantized",
    )
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == (
        "sums",
        "exact_match",
        0.9,
    )
    assert "| exact match, sums | 0.900 ± 0.010 | 1.000 ± 0.010 |" in card.text
    assert yaml.safe_load(card.text.split("```yaml\n")[1].split("```")[0]) == {
        "quantize": {"bits": 4}
    }
    assert "edgewright run x.yaml" in card.text and "device cpu" in card.text


def test_a_card_of_what_was_not_measured_names_no_path(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    entry = {
        "name": "x",
        "kind": "export",
        "config": {},
        "metrics": {"size_bytes": 5_000_000},
        "notes": [],
        "context": {},
    }
    path = write_card(tmp_path, entry, STEPS["export"], str(tmp_path / "my-model"), tmp_path, "")
    card = ModelCard.load(path)
    assert (
        card.data.library_name == "onnx"
        and card.data.eval_results is None
        and "base_model" not in card.data.to_dict()
    )
    assert (
        str(tmp_path) not in path.read_text() and "my-model" in card.text and "5.00 MB" in card.text
    )
