"""A measurement of perplexity alone says that task accuracy was not measured, once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.benchmarks.missing_tasks import missing_tasks
from edgewright.benchmarks.report.report import render_html, render_markdown

Cli = Callable[..., tuple[int, str, str]]
WARNING = "task accuracy was not measured, and perplexity can hide damage"


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["perplexity/wiki", "kl/wiki", "size_bytes"], True),
        (["perplexity/wiki", "accuracy/reasoning"], False),
        (["perplexity/wiki", "lm_eval/arc/acc,none"], False),
        (["size_bytes", "decode_tok_s/p50"], False),
        ([], False),
    ],
)
def test_when_tasks_are_missing(names: list[str], missing: bool) -> None:
    found = missing_tasks(names)
    assert len(found) == missing
    assert all(WARNING in note and "--tasks" in note for note in found)


def test_bench_says_it(make_model: Callable[..., Path], text_file: Path, cli: Cli) -> None:
    text = ["--perplexity", f"text:{text_file}", "--windows", 2, "--seq-len", 32]
    code, out, _ = cli("bench", make_model("llama"), *text)
    assert code == 0
    assert " ".join(out.split()).count(WARNING) == 1
    code, out, _ = cli("bench", make_model("llama"), *text, "--json")
    assert code == 0
    assert WARNING in json.loads(out)["notes"][0]


def test_runs_and_reports_say_it_once(
    make_model: Callable[..., Path], text_file: Path, tmp_path: Path, cli: Cli
) -> None:
    recipe = {
        "model": str(make_model("llama")),
        "calibration": {"source": f"text:{text_file}", "samples": 2, "seq_len": 32},
        "evaluate": {"perplexity": [f"text:{text_file}"], "windows": 2, "latency": None},
        "steps": [{"kind": "quantize", "method": "rtn", "group_size": 32}],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(recipe))
    code, _, err = cli("run", file, "--out", tmp_path / "run")
    assert code == 0
    assert " ".join(err.split()).count(WARNING) == 1
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    for page in (render_markdown(ledger), render_html(ledger)):
        assert page.count(WARNING) == 1
    ledger["steps"][0]["metrics"]["accuracy/reasoning"] = 0.5
    assert WARNING not in render_markdown(ledger)
