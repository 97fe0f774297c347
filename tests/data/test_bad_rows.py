"""Bad rows in verbs and recipes: refused, or skipped and counted in what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.kv_cache.options import KvOptions
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.checkpoints.hashing import read_provenance
from edgewright.compress.distill.options import DistillOptions
from edgewright.pipeline.recipe import Recipe
from edgewright.pipeline.run import run_recipe
from edgewright.steps.options import Calibration

Cli = Callable[..., tuple[int, str, str]]
MakeModel = Callable[..., Path]
SKIPPED = "3 rows were skipped, the first because of "


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Sixty rows of text, and in front of them three without text."""
    file = tmp_path_factory.mktemp("data") / "mixed.jsonl"
    bad = [{"text": None}, {"text": 5}, {"title": "no text"}]
    good = [{"text": f"The harbour was quiet in the year {1900 + n}. "} for n in range(60)]
    file.write_text("".join(json.dumps(row) + "\n" for row in bad + good))
    return f"jsonl:{file}"


def verbs(model: Path, data: str, out: Path) -> dict[str, tuple[object, ...]]:
    rows = ("--calibration", data, "--samples", 4, "--seq-len", 32)
    score = ("--perplexity", data, "--seq-len", 32, "--windows", 4)
    cut = ("--ffn", 0.5, "--criterion", "norm")
    train = ("--teacher", "none", "--data", data, "--seq-len", 32, "--label-steps", 1)
    return {
        "quantize": (model, "--group-size", 32, *rows, "--out", out),
        "prune": (model, *cut, *rows, "--out", out),
        "distill": (model, *train, "--batch-size", 2, "--out", out),
        "bench": (model, *score),
        "kv-study": (model, *score, "--calibration", data, "--bits", 8, "--context", 64),
    }


@pytest.mark.parametrize("verb", ["quantize", "prune", "distill", "bench", "kv-study"])
def test_every_verb_refuses_or_skips_and_counts(
    verb: str, data: str, make_model: MakeModel, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = verbs(make_model("llama"), data, out)[verb]
    code, _, err = cli(verb, *arguments)
    told = " ".join(err.split())
    assert code == 2
    assert "mixed.jsonl, row 1: field `text` is null, not text" in told.replace("- ", "-")
    assert "--bad-rows skip" in told
    assert not out.exists()
    code, stdout, err = cli(verb, *arguments, "--bad-rows", "skip", "--json")
    assert code == 0, err
    if verb == "bench":
        assert json.loads(stdout)["context"]["skipped_rows/mixed"] == 3
    if verb == "bench":
        assert SKIPPED in " ".join(err.split())
    else:
        notes = json.loads(stdout)["notes"]
        assert any(SKIPPED in note and "row 1: field `text`" in note for note in notes), notes
    if verb in ("quantize", "prune"):
        assert read_provenance(out)["calibration"]["skipped_rows"] == 3


def test_a_recipe_keeps_the_counts(data: str, make_model: MakeModel, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "model": str(make_model("llama")),
            "device": "cpu",
            "calibration": {"source": data, "samples": 4, "seq_len": 32, "bad_rows": "skip"},
            "evaluate": {
                "perplexity": [data],
                "bad_rows": "skip",
                "seq_len": 32,
                "windows": 4,
                "latency": None,
            },
            "steps": [{"kind": "prune", "ffn": 0.5, "criterion": "norm"}],
        }
    )
    run_recipe(recipe, tmp_path / "run", "edgewright run")
    baseline, pruned = json.loads((tmp_path / "run" / "ledger.json").read_text())["steps"]
    assert any(SKIPPED in note for note in pruned["notes"])
    for entry in (baseline, pruned):
        assert entry["context"]["skipped_rows/mixed"] == 3


def test_good_data_is_recorded_as_before(
    text_file: Path, make_model: MakeModel, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    few = ("--calibration", f"text:{text_file}", "--samples", 4, "--seq-len", 32)
    code, _, err = cli("quantize", make_model("llama"), "--group-size", 32, *few, "--out", out)
    assert code == 0, err
    expected = {"source": f"text:{text_file}", "samples": 4, "seq_len": 32}
    assert read_provenance(out)["calibration"] == expected
    code, stdout, _ = cli("bench", out, "--perplexity", f"text:{text_file}", "--json")
    assert "skipped" not in stdout


def test_one_declaration() -> None:
    fields: list[Any] = [
        model.model_fields["bad_rows"]
        for model in (Calibration, EvaluateOptions, DistillOptions, KvOptions)
    ]
    assert {(field.description, field.default) for field in fields} == {
        (fields[0].description, "refuse")
    }
