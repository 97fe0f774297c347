"""A recipe whose GGUF a real llama.cpp server measures, and `bench` of it against ONNX Runtime."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llama_program import llama_server  # isort: skip

pytestmark = pytest.mark.compat
TEXT = "builtin:reasoning"
RECIPE: dict[str, Any] = {
    "name": "shipped",
    "model": "builtin:tiny-reasoner",
    "calibration": {"source": TEXT, "samples": 32, "seq_len": 128},
    "evaluate": {"tasks": ["reasoning"], "perplexity": [TEXT], "windows": 8, "limit": 40},
    "steps": [
        {"kind": "quantize", "method": "mixed"},
        {"kind": "export", "format": "gguf", "precision": "int4"},
    ],
    "gate": {
        "candidate": "export",
        "baseline": "baseline",
        "limits": {"accuracy/reasoning": {"min_ratio": 0.8}},
    },
}


@pytest.fixture(autouse=True)
def real_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real llama-server on PATH."""
    (tmp_path / "bin").mkdir()
    llama_server(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def answers(file: Path) -> list[str]:
    return [json.loads(line)["text"] for line in file.read_text().splitlines()]


def test_a_recipe_measures_what_it_ships(cli: Any, tmp_path: Path) -> None:
    """The server answers as torch does with the same integers, up to ties."""
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(json.dumps(RECIPE))
    code, _, error = cli("run", file, "--out", run)
    assert code == 0, error
    ledger = json.loads((run / "ledger.json").read_text())
    steps = {step["name"]: step for step in ledger["steps"]}
    made, source = steps["export"], steps["quantize"]
    assert made["context"]["backend"] == "llama.cpp"
    assert made["context"]["llama_cpp"].startswith("version: ")
    assert (
        abs(made["metrics"]["accuracy/reasoning"] - source["metrics"]["accuracy/reasoning"]) < 0.06
    )
    assert not [name for name in made["metrics"] if name.startswith(("perplexity/", "kl/"))]
    assert made["metrics"]["decode_tok_s/p50"] > 1 and made["metrics"]["peak_rss_bytes"] > 1e7
    (note,) = [note for note in made["measurement_notes"] if "llama.cpp gives no logits" in note]
    assert TEXT in note
    assert ledger["gate"]["verdict"] == "pass"
    pairs = zip(
        answers(run / "samples" / "export.jsonl"),
        answers(run / "samples" / "quantize.jsonl"),
        strict=True,
    )
    assert sum(ours == theirs for ours, theirs in pairs) >= 38
    code, _, error = cli("run", file, "--out", run)
    assert code == 0 and "llama-server" not in error, error


def test_a_gguf_is_timed_in_turns_with_a_graph(cli: Any, tmp_path: Path) -> None:
    model = "builtin:tiny-reasoner"
    for format in ("gguf", "ort"):
        where = ("--format", format, "--precision", "fp16", "--out", tmp_path / format)
        assert cli("export", model, *where)[0] == 0
    shape = ("--latency", "--prompt", 32, "--new-tokens", 8, "--runs", 2)
    code, out, error = cli(
        "bench", tmp_path / "gguf", *shape, "--against", tmp_path / "ort", "--json"
    )
    assert code == 0, error
    found = json.loads(out)
    assert found["context"]["backend"] == "llama.cpp"
    assert found["against"]["decode"]["ratio"] > 0
