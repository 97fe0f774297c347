"""axe-core finds nothing in a report and a comparison: at three widths, light and dark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from report_ledger import answered_run, make_ledger
from test_compat import environment
from test_report_warnings import refused_ledger

from edgewright.benchmarks.report.compare import compare_runs, write_comparison
from edgewright.benchmarks.report.report import render_html, write_report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def axe() -> Path:
    """axe-core's script, in an environment of its own."""
    folder = environment("axe").parents[1]
    return next(folder.glob("lib/python3*/site-packages/axe_playwright_python/axe.min.js"))


def check(axe: Path, out: Path, *pages: Path) -> str:
    """What the browser prints about some pages; the exit code says that all is well."""
    done = subprocess.run(
        [sys.executable, "-m", "edgewright.perf.browser", *pages, "--out", out, "--axe", axe],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{done.stdout}{done.stderr}exit code {done.returncode}"


def test_axe_core_finds_no_violation(axe: Path, tmp_path: Path) -> None:
    run = answered_run(tmp_path / "run")
    pages = [write_report(run)[0], tmp_path / "refused.html"]
    pages[1].write_text(render_html(refused_ledger()))
    compared = compare_runs([f"{run}:baseline", f"{run}:export-int4"])
    pages += write_comparison(compared, tmp_path / "comparison.html", None, "edgewright compare")
    found = check(axe, tmp_path / "shots", *pages)
    assert found.count("axe-core []") == 6 * len(pages), found
    assert found.endswith("exit code 0"), found


def test_a_page_that_is_hard_to_read_is_found(axe: Path, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    clean = render_html(make_ledger())
    page.write_text(clean.replace("--ink: #1b1f27", "--ink: #e0e0e0"))
    found = check(axe, tmp_path / "shots", page)
    assert "color-contrast (serious)" in found
    assert found.endswith("exit code 1")
