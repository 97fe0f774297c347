"""Every verb says when calibration text gives too few rows, and records those it used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.steps.context import CalibrationData

Cli = Callable[..., tuple[int, str, str]]
ASKED = 128
VERBS: dict[str, tuple[object, ...]] = {
    "gptq": ("quantize", "MODEL", "--group-size", 32),
    "awq": ("quantize", "MODEL", "--method", "awq"),
    "cut": ("prune", "MODEL", "--ffn", 0.5, "--criterion", "activation"),
    "sparse": ("prune", "MODEL", "--sparsity", "2:4"),
    "merged heads": ("prune", "MODEL", "--merge-kv", 1),
    "both": ("prune", "MODEL", "--ffn", 0.5, "--sparsity", "2:4"),
    "rounds": ("iterate", "MODEL", "--ffn", 0.5, "--rounds", 1, "--logit-steps", 1),
}


@pytest.fixture
def few(text_file: Path, tmp_path: Path) -> Path:
    file = tmp_path / "few.txt"
    file.write_text("".join(text_file.read_text().splitlines(keepends=True)[:12]))
    return file


@pytest.mark.parametrize("kind", VERBS)
def test_both_numbers_are_named_and_the_used_one_is_kept(
    kind: str, make_model: Any, few: Path, text_file: Path, cli: Cli, tmp_path: Path
) -> None:
    model, out = make_model("llama"), tmp_path / "out"
    data = CalibrationData(f"text:{few}", ASKED, 32)
    used = len(data.rows(model, 0))
    assert 2 < used < ASKED
    learn = ("--data", f"text:{text_file}", "--held-out-rows", 2) if kind == "rounds" else ()
    verb = [model if part == "MODEL" else part for part in VERBS[kind]]
    more = ("--calibration", data.source, "--samples", ASKED, "--seq-len", 32, "--json")
    code, printed, err = cli(*verb, *learn, *more, "--out", out)
    assert code == 0, err
    (note,) = [n for n in json.loads(printed)["notes"] if "calibration rows" in n]
    assert note.startswith(f"{used} calibration rows of 32 tokens, of the {ASKED} asked for")
    recorded = json.loads((out / "edgewright.json").read_text())["calibration"]
    assert (recorded["samples"], recorded["source"]) == (used, data.source)


def test_a_study_of_the_cache_says_it(make_model: Any, few: Path, cli: Cli) -> None:
    data = ("--calibration", f"text:{few}", "--samples", ASKED, "--seq-len", 32)
    score = ("--perplexity", f"text:{few}", "--windows", 2, "--bits", 8)
    code, printed, err = cli("kv-study", make_model("llama"), *score, *data, "--json")
    assert code == 0, err
    assert any(f"of the {ASKED} asked for" in note for note in json.loads(printed)["notes"])
    assert 2 < json.loads(printed)["context"]["calibration_rows"] < ASKED


def test_nothing_is_said_when_all_rows_are_there(
    make_model: Any, text_file: Path, cli: Cli, tmp_path: Path
) -> None:
    data = ("--calibration", f"text:{text_file}", "--samples", 4, "--seq-len", 32, "--json")
    code, printed, err = cli(
        "quantize", make_model("llama"), "--group-size", 32, *data, "--out", tmp_path / "out"
    )
    assert code == 0, err
    assert "calibration rows" not in printed
    recorded = json.loads((tmp_path / "out" / "edgewright.json").read_text())["calibration"]
    assert recorded == {"source": f"text:{text_file}", "samples": 4, "seq_len": 32}
