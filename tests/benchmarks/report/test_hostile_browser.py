"""Hostile pages in headless Chromium: no request, no script, no message, no wide layout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_ledger import make_ledger
from test_hostile_text import HOSTILE, PLACES, full_ledger, with_text

from edgewright.benchmarks.report.compare import write_comparison
from edgewright.benchmarks.report.report import render_html

pytestmark = pytest.mark.browser
SCREENS = 6
"""Most heights of a phone that a report of five steps may take."""


def test_hostile_pages_request_nothing_and_keep_their_layout(tmp_path: Path) -> None:
    texts = [*HOSTILE, " ".join(HOSTILE)]
    pages = [tmp_path / "clean.html"]
    pages[0].write_text(render_html(make_ledger()))
    for number, text in enumerate(texts):
        ledger = full_ledger()
        for at in PLACES:
            if None not in at and at[-1] not in ("kind", "device", "backend"):
                ledger = with_text(ledger, at, text)
        pages.append(tmp_path / f"report-{number}.html")
        pages[-1].write_text(render_html(ledger), errors="replace")
    rows = [{**row, "name": texts[-1], "kind": texts[2]} for row in full_ledger()["steps"][:2]]
    compared = {"rows": rows, "against_first": [{"accuracy/copying": {"unlike": texts[-1]}}]}
    pages += write_comparison(compared, tmp_path / "comparison.html", None, texts[-1])
    done = subprocess.run(
        [sys.executable, "-m", "edgewright.perf.browser", *pages, "--out", tmp_path / "shots"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("console [], foreign requests []") == 6 * len(pages)
    clean = done.stdout.split("report-0.html")[0]
    heights = [int(text) for text in re.findall(r"phone \w+: 390 x (\d+)", clean)]
    assert len(heights) == 2
    assert max(heights) < SCREENS * 844, "a report is read on a phone too"
