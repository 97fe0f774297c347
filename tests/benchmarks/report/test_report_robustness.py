"""Reports of odd, hostile, unfinished and missing ledgers, and of those that cannot be written."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from report_ledger import Page, make_ledger

from edgewright.benchmarks.report.plots import heat_map
from edgewright.benchmarks.report.report import render_html, render_markdown, write_report
from edgewright.errors import EdgewrightError, UsageError

HOSTILE = "<script>alert(1)</script> \"onload='x' $\\frac{ | ` --> \x00 \ud800 {{ 7*7 }} 漢字"


def test_hostile_strings_are_text() -> None:
    ledger = json.loads(json.dumps(make_ledger()).replace("export-int4", json.dumps(HOSTILE)[1:-1]))
    ledger |= {
        "command": HOSTILE,
        "edgewright": HOSTILE,
        "created": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
    }
    ledger["recipe"] = {"name": HOSTILE, "model": HOSTILE}
    ledger["gate"] |= {"verdict": HOSTILE}
    ledger["steps"][1]["details"] = {
        "modules": {HOSTILE: {"error": 1.0}},
        "loss": {HOSTILE: [2.0, 1.0]},
    }
    html = render_html(ledger)
    assert "script" not in Page(html).tags
    assert "{{ 7*7 }}" in html
    markdown = render_markdown(ledger)
    assert "<script>" not in re.sub(r"```.*?```", "", markdown, flags=re.S)
    widths = {
        len(re.findall(r"(?<!\\)\|", line))
        for line in markdown.splitlines()
        if line.startswith("|") and "kind" in line
    }
    assert widths == {
        len(
            re.findall(
                r"(?<!\\)\|", next(x for x in markdown.splitlines() if x.startswith("| baseline"))
            )
        )
    }


def test_recipe_cannot_close_its_code_block() -> None:
    markdown = render_markdown(make_ledger() | {"recipe": "a: |\n  ```\n  # not a heading\n"})
    assert "````yaml\na: |\n  ```\n" in markdown and markdown.rstrip().endswith("````")


def test_unfinished_ledger_renders() -> None:
    ledger = make_ledger()
    ledger["steps"] = ledger["steps"][:2]
    for key in ("metrics", "context", "details", "notes", "seconds", "peak_rss_bytes"):
        del ledger["steps"][1][key]
    del ledger["gate"], ledger["plan"]
    page = Page(render_html(ledger))
    assert "No verdict" in page.texts and "svg" not in page.tags and "candidate" not in page.html
    assert page.rows[2] == ["prune", "prune"] + ["–"] * 13
    assert "| prune | prune | – |" in render_markdown(ledger)


ALMOST_EMPTY: list[dict[str, Any]] = [
    {},
    {"steps": []},
    {"steps": [{}]},
    {"steps": [{"metrics": None}], "gate": None},
]


@pytest.mark.parametrize("ledger", ALMOST_EMPTY)
def test_almost_empty_ledgers_render(ledger: dict[str, Any]) -> None:
    assert "svg" not in Page(render_html(ledger)).tags
    assert render_markdown(ledger).startswith("# unnamed run")


def test_odd_numbers_render() -> None:
    ledger = make_ledger()
    ledger["steps"][1]["metrics"] |= {
        "perplexity/reasoning": math.inf,
        "kl/reasoning": math.nan,
        "ttft_ms/p50": None,
    }
    ledger["steps"][0]["metrics"]["size_bytes"] = 0
    ledger["steps"][1]["details"] = {
        "head_importance": [[math.nan, 1.0], [0.5]],
        "pruned_heads": [[0], []],
        "loss": {"hidden": [math.nan, 5.0], "logits": []},
    }
    ledger["gate"]["checks"][0] |= {"observed": None, "baseline": None}
    row = Page(render_html(ledger)).rows[2]
    assert row[4] == "∞" and row[5] == "–" and row[7] == "–"


def test_write_report_writes_both_and_changes_nothing_else(tmp_path: Path) -> None:
    ledger = make_ledger()
    ledger["steps"][0]["name"] = "\ud800"
    (tmp_path / "ledger.json").write_text(json.dumps(ledger))
    paths = write_report(tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "ledger.json",
        "report.html",
        "report.md",
    ]
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_report(tmp_path)] == first, (
        "the same ledger gives the same report"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "no ledger"), ("{", "not valid JSON"), ("[]", "schema"), ('{"schema": 9}', "schema 9")],
)
def test_no_usable_ledger_is_a_usage_error(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        write_report(tmp_path)
    assert caught.value.hint
    assert not (tmp_path / "report.html").exists()


def test_unwritable_run_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text(json.dumps(make_ledger()))
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html" / "x").touch()
    with pytest.raises(EdgewrightError, match="could not be written"):
        write_report(tmp_path)


def test_rendering_leaves_the_ledger_alone() -> None:
    ledger = make_ledger()
    before = copy.deepcopy(ledger)
    render_html(ledger)
    assert ledger == before


def test_report_needs_neither_torch_nor_matplotlib_to_be_imported() -> None:
    code = (
        "import sys, edgewright.benchmarks.report.report;"
        " print({'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_heat_map_of_scores_whose_spread_is_rounded() -> None:
    """0.92 * spread / spread may come out above 0.92, and more than fully opaque is an error."""
    assert "<svg" in heat_map([[0.8444218515250481, 1.6023762544653506]], [[0]], "heads")
