"""The pictures and the table of the demo show what a run printed and measured."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree

import pytest
from report_ledger import make_ledger

from edgewright.docs import draw_chain
from edgewright.docs.record_demo import BEGIN, END, REPORT, TERMINAL, demo_text
from edgewright.docs.terminal_picture import MOST_LINES, Line, final_lines, picture, recorded

SVG = "{http://www.w3.org/2000/svg}"
PROGRAM = """
import sys
from rich.console import Console
from rich.progress import Progress
console = Console(stderr=True)
console.print("[bold]begins[/]")
with Progress(console=console, transient=True) as bar:
    task = bar.add_task("working", total=3)
    for _ in range(3):
        bar.advance(task)
        console.print("a step")
console.print("ends, with <signs> & more")
sys.exit(int(sys.argv[1]))
"""


def texts(svg: str) -> list[str]:
    """The lines of a picture."""
    return ["".join(line.itertext()) for line in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_a_picture_has_what_stays_on_the_terminal() -> None:
    """Progress bars are erased by the program, and are not in the picture."""
    lines = final_lines(recorded([sys.executable, "-c", PROGRAM, "0"]))
    shown = texts(picture("program", lines))
    assert shown == ["$ program", "begins", *["a step"] * 3, "ends, with <signs> & more"]
    assert [line.seconds for line in lines] == sorted(line.seconds for line in lines)


def test_a_command_that_fails_is_not_recorded() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        recorded([sys.executable, "-c", PROGRAM, "3"])


def test_lines_that_are_overwritten_and_erased() -> None:
    pieces = [
        (0.0, "one\n"),
        (1.0, "bar 1"),
        (2.0, "\r\x1b[2Kbar 2"),
        (3.0, "\r\x1b[2K\x1b[1A\x1b[2K"),
    ]
    assert final_lines([*pieces, (4.0, "two\nthree\n")]) == [Line("two", 4.0), Line("three", 4.0)]


def test_a_long_output_is_cut_at_the_top() -> None:
    shown = texts(picture("program", [Line(f"line {n}", n) for n in range(100)]))
    assert shown[0] == "$ program"
    assert shown[1].strip() == "[...]"
    assert shown[-1] == "line 99"
    assert len(shown) == MOST_LINES + 2


def test_the_table_of_a_run_is_a_table_of_the_page() -> None:
    ledger = make_ledger()
    text = demo_text(ledger)
    assert text.startswith(BEGIN)
    assert text.endswith(END)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [f"| {s['name']}" for s in ledger["steps"]]
    assert f"    gate: {ledger['gate']['verdict'].upper()}" in text


def test_the_chain_shows_the_numbers_of_the_table() -> None:
    table = draw_chain.rows()
    shown = texts(draw_chain.PICTURE.read_text())
    for step in draw_chain.STEPS:
        exact = float(table[step]["exact match"].split()[0])
        assert f"{exact:.0%}" in shown
        assert step in shown


def test_the_recorded_pictures_are_small_and_load_nothing() -> None:
    assert REPORT.stat().st_size < 200_000
    assert REPORT.read_bytes().startswith(b"\x89PNG")
    svg = TERMINAL.read_text()
    assert len(svg) < 200_000
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert any("gate" in line for line in texts(svg))
