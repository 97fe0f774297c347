"""A comparison says which run is better, by how much and how sure, in one sentence per metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_ledger import Page, metrics, step
from test_compare import make_run

from edgewright.benchmarks.report.compare import compare_runs, write_comparison
from edgewright.benchmarks.report.findings import Comparison, compare_with_first


def compared(tmp_path: Path, first: int, other: int, **context: Any) -> Comparison:
    """Runs whose candidates are right on the first so many of 200 problems."""
    runs = [
        make_run(tmp_path / "first", first),
        make_run(tmp_path / "other", other, context or None),
    ]
    found = compare_runs([str(run) for run in runs])
    return compare_with_first(found["rows"][1], found["rows"][0], found["against_first"][0])


def sentence(comparison: Comparison, start: str) -> str:
    return next(one.text for one in comparison.findings if one.text.startswith(start))


def test_a_loss_on_the_same_problems_has_an_interval(tmp_path: Path) -> None:
    found = compared(tmp_path, 190, 150)
    assert found.summary == (
        "Against first:small, other:small is better in size; is worse in accuracy sums."
    )
    text = sentence(found, "accuracy")
    assert text.startswith("accuracy sums is 0.200 lower: 0.750 against 0.950 (0.1")
    assert text.endswith("; paired on 200 samples).")
    assert sentence(found, "size") == "size is 0.791×: 151 MB against 191 MB."


def test_a_gain_is_as_sure(tmp_path: Path) -> None:
    found = compared(tmp_path, 150, 190)
    assert found.findings[0].outcome == "better"
    assert sentence(found, "accuracy").startswith(
        "accuracy sums is 0.200 higher: 0.950 against 0.7"
    )


def test_what_chance_may_explain_is_open(tmp_path: Path) -> None:
    found = compared(tmp_path, 190, 189)
    text = sentence(found, "accuracy")
    assert "is 0.005 lower, which chance may explain: 0.945 against 0.950 (" in text
    assert "cannot be told apart in accuracy sums" in found.summary


def test_equal_answers_are_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, 190, 190)
    assert {one.outcome for one in found.findings} == {"same"}
    assert sentence(found, "accuracy").startswith("accuracy sums is the same: 0.950 against 0.950")


def test_other_problems_are_not_compared(tmp_path: Path) -> None:
    found = compared(tmp_path, 190, 100, **{"problems_hash/sums": "b"})
    assert "not comparable: problems_hash/sums differs" in sentence(found, "accuracy")
    assert found.findings[-1].outcome == "open"


@pytest.mark.parametrize(
    ("backend", "noisy", "expected"),
    [
        ("torch", [], "decode is 2.00×: 100 tok/s against 50.0 tok/s (measured once each"),
        ("torch", ["decode_tok_s"], "decode is 2.00×, which noise may explain: 100 tok/s"),
        ("onnx", [], "decode is not compared, because the runtimes differ (onnx and torch)"),
    ],
)
def test_speeds_have_no_interval_and_no_factor_between_runtimes(
    backend: str, noisy: list[str], expected: str
) -> None:
    first = step("a", "export", metrics(0.9, 0.0, 50.0, 1e6, 10))
    other = step("b", "export", metrics(0.9, 0.0, 100.0, 1e6, 10), backend=backend, noisy=noisy)
    assert expected in sentence(compare_with_first(other, first, {}), "decode")


def test_the_page_begins_with_the_sentences_and_bars_are_against_the_first(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, right) for name, right in (("a", 190), ("b", 95), ("c", 19))]
    found = compare_runs([str(run) for run in runs])
    files = (tmp_path / "page.html", tmp_path / "page.md")
    write_comparison(found, *files, "edgewright compare a b c")
    html, markdown = (file.read_text() for file in files)
    texts = "\n".join(Page(html).texts)
    assert texts.index("Against a:small, b:small is better in size") < texts.index("exact match")
    assert texts.count("Each bar, and its factor, against the first run") == 1
    assert "20.0 MB  0.10×" in html, "not 0.21, which is against b"
    assert markdown.index("**Against a:small, b:small is better in size") < markdown.index("| step")
