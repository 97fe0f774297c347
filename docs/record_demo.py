"""Writes into README and docs what a finished run of the demo shows, after `make demo`.

    python -m edgewright.docs.record_demo runs/demo

It writes the table and the gate of docs/start.md, and the pictures: the chain, the terminal
(`edgewright run demo` once more, which finds its steps done), and the report in headless Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console

from ..commands.measurement_tables import gate_view
from ..commands.table_parts import METRIC_COLUMNS, metric_row
from . import draw_chain
from .import_graph import ROOT
from .terminal_picture import final_lines, picture, recorded

__all__ = ["REPORT", "TERMINAL", "demo_text", "main"]

TERMINAL = ROOT / "docs" / "pictures" / "terminal.svg"
REPORT = ROOT / "docs" / "pictures" / "report.png"
BEGIN = "<!-- demo: written by docs/record_demo.py -->"
END = "<!-- end of demo -->"
WIDTH = 1180
HEIGHT = 860
COLOURS = 128
"""Of the picture of the report, so that it stays small."""


def demo_text(ledger: Mapping[str, Any]) -> str:
    """The table of a run and the verdict of its gate as Markdown."""
    columns = METRIC_COLUMNS[:-1]  # the seconds say more about the machine
    rows = [metric_row(step["name"], step["metrics"], None)[:-1] for step in ledger["steps"]]
    lines = [" | ".join(columns), "|".join(["---"] * len(columns)), *map(" | ".join, rows)]
    table = "\n".join(f"|{line}|" if line.startswith("---") else f"| {line} |" for line in lines)
    console = Console(width=120, file=io.StringIO(), color_system=None)
    with console.capture() as printed:
        for view in gate_view(ledger["gate"]):
            console.print(view)
    verdict = "\n".join(f"    {line}".rstrip() for line in printed.get().splitlines())
    return f"{BEGIN}\n{table}\n\n{verdict}\n{END}"


def _photograph(report: Path) -> None:
    """Write the first screen of a report as a small picture."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = f"--window-size={WIDTH},{HEIGHT}"
        page = report.resolve().as_uri()
        subprocess.run(
            [program, *options, size, f"--user-data-dir={folder}", f"--screenshot={shot}", page],
            check=True,
            capture_output=True,
            timeout=120,
        )
        Image.open(shot).convert("RGB").quantize(COLOURS).save(REPORT, optimize=True)


def main() -> None:
    """Write everything that shows the run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="directory of a finished run of the demo")
    run = parser.parse_args().run
    ledger = json.loads((run / "ledger.json").read_text(encoding="utf-8"))
    before, _, rest = draw_chain.PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    draw_chain.PAGE.write_text(f"{before}{demo_text(ledger)}{after}", encoding="utf-8")
    draw_chain.PICTURE.write_text(draw_chain.picture(), encoding="utf-8")
    command = ["run", "demo", "--out", str(run)]
    pieces = recorded([sys.executable, "-m", "edgewright.cli", *command])
    shown = "edgewright run demo --out runs/demo"
    TERMINAL.write_text(picture(shown, final_lines(pieces)), encoding="utf-8")
    _photograph(run / "report.html")


if __name__ == "__main__":
    main()
