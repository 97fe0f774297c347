"""The report of a run: what it shows, and that the page stands alone."""

from __future__ import annotations

import json
import re
from unittest.mock import patch

import pytest
from report_ledger import Page, make_ledger, metrics, step

from edgewright.benchmarks.report.ledger_view import parents_of
from edgewright.benchmarks.report.report import plots_of, render_html, render_markdown


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_html(make_ledger()))


def test_the_page_needs_no_other_file(page: Page) -> None:
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), f"<{tag} {name}> would run code"
        assert "://" not in value, f"<{tag} {name}={value}> points outside"
        if name in ("href", "src"):
            assert value.startswith("#")
    assert "@import" not in page.html
    assert set(re.findall(r"url\(.", page.html)) <= {"url(#"}


def test_every_reference_inside_a_figure_has_one_definition(page: Page) -> None:
    used = {v[1:] for _, n, v in page.attributes if n == "href"}
    used |= {v[5:-1] for _, n, v in page.attributes if v.startswith("url(#")}
    assert used
    assert sorted(page.ids) == sorted(set(page.ids))
    assert set(page.ids) == used


def test_steps_table_shows_readable_numbers(page: Page) -> None:
    head, *rows = page.rows[:6]
    cells = dict(zip(head, rows[4], strict=True))
    assert cells == {
        "step": "export-int4 candidate",
        "kind": "export",
        "exact match ± stderr reasoning, n=200": "0.950 ± 0.015",
        "exact match ± stderr copying, n=200": "0.900 ± 0.018",
        "perplexity reasoning, n=51,200": "1.231",
        "KL reasoning": "0.0310",
        "top-1 reasoning": "0.985",
        "TTFT p50 ms": "11.2",
        "decode tok/s": "215",
        "prefill tok/s": "3,049",
        "peak memory MB": "412",
        "size MB": "2.40",
        "parameters": "2.41 M",
        "seconds": "12.3",
        "memory of the step GB": "1.26",
    }
    assert [row[0].split()[0] for row in rows] == [
        "baseline",
        "prune",
        "distill",
        "quantize",
        "export-int4",
    ]


def test_all_parts_are_there(page: Page) -> None:
    text = "\n".join(page.texts)
    for part in (
        "tiny chain",
        "builtin:tiny-reasoner",
        "2025-11-21 23:45 UTC",
        "jetson-orin-nano-8gb",
        "✓ pass",
        "✗ fail",
        "? inconclusive",
        "0.0200 observed, limit drop <= 0.01",
        "-0.005 to 0.045 on 200 samples; about 3,391 samples would decide",
        "0.979 observed, limit ratio >= 0.92",
        "2.64 observed, limit ratio >= 3",
        "81.2 tok/s → 215 tok/s",
        "from 12.8 MB (0.187×)",
        "Head importance: prune",
        "Distillation loss: distill, hidden",
        "export-int4: first note",
        "Distillation loss: distill, logits",
        "Accuracy on reasoning against size",
        "low bit nodes",
        "3.20e-06",
        "Example CPU @ 2.0 GHz",
        "os.name",
        "--set steps.prune.heads=0.25",
        "heads: 0.25",
        "76.9 to 130 tok/s",
        "13.3 to 30.0 ms",
        "82%",
        "9.3 GB of weights",
    ):
        assert part in text, part
    assert page.tags.count("svg") == 14  # two of them are the chain
    assert ["export-int4", "0.0121", "3.20e-06", "1.000", "0.992", "512", "8", "57"] in page.rows
    assert sum(row[0].startswith("model.layers.") for row in page.rows) == 10
    errors = [float(row[1]) for row in page.rows if row[0].startswith("model.layers.")]
    assert errors == sorted(errors, reverse=True)


def test_plots_follow_the_theme(page: Page) -> None:
    styles = " ".join(
        value for tag, name, value in page.attributes if name == "style" and tag != "i"
    )
    assert "currentColor" in styles and "var(--series-1" in styles and "var(--good" in styles
    bare = re.sub(r"var\([^)]*\)", "", styles)
    assert not re.findall(r"#[0-9a-f]{6}", bare), "a colour that does not follow light and dark"
    assert "prefers-color-scheme: dark" in page.html


def test_steps_measured_otherwise_stay_out_of_comparisons() -> None:
    ledger = make_ledger()
    ledger["steps"][4]["context"] |= {"threads": 8, "problems/reasoning": 50}
    text = "\n".join(Page(render_html(ledger)).texts)
    assert text.count("Left out, because measured differently: export-int4.") == 6
    assert "81.2 tok/s (" not in text
    assert "0.187×" in text  # sizes are always comparable


def test_speeds_of_two_runtimes_make_no_factor() -> None:
    ledger = make_ledger()
    text = "\n".join(Page(render_html(ledger)).texts)
    assert "from 81.2 tok/s (in torch)" in text
    ledger["steps"][4]["context"]["backend"] = "torch"
    text = "\n".join(Page(render_html(ledger)).texts)
    assert "from 81.2 tok/s (2.64×)" in text


def test_bars_compare_a_step_with_the_one_it_started_from() -> None:
    steps = [
        step(name, "quantize", metrics(0.9, 0.0, speed, 1e6, 10), backend=runtime)
        for name, speed, runtime in (("a", 50, "torch"), ("b", 80, "onnx"), ("c", 100, "torch"))
    ]
    steps[2]["config"]["from"] = "a"
    with patch("edgewright.benchmarks.report.charts.bars", return_value="") as bars:
        plots_of(steps, steps[0], parents_of(steps))
    speeds = next(call.args for call in bars.call_args_list if call.args[4] == "Decode speed")
    assert speeds[1] == [50, 80, 100]
    assert speeds[2] == [50, 80, 50]  # b is the first in its runtime, c came from a
    assert speeds[3] == ["50.0 tok/s", "80.0 tok/s", "100 tok/s  2.00×"]


def test_plan_without_a_target_shows_what_is_known() -> None:
    plan = {
        "target": None,
        "rows": [{"step": "prune", "precision": "fp32", "weight_bytes": 9.65e6, "violations": []}],
    }
    page = Page(render_html({"plan": plan}))
    assert page.rows == [["step", "precision", "weights MB"], ["prune", "fp32", "9.65"]]
    assert "Plan" in page.texts


def test_many_steps_are_numbered_beside_the_dots() -> None:
    ledger = make_ledger()
    ledger["steps"] += [
        step(f"again-{i}", "distill", metrics(0.9, 0.02, 90.0, 9e6 - i, 2_409_000))
        for i in range(4)
    ]
    page = Page(render_html(ledger))
    assert (
        sum("1\N{NO-BREAK SPACE}baseline, 2\N{NO-BREAK SPACE}prune" in text for text in page.texts)
        == 4
    )


def test_markdown_has_one_row_a_step() -> None:
    lines = render_markdown(make_ledger()).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| step | kind |"))
    rows = lines[
        start + 2 : next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    ]
    assert [row.split("|")[1].strip() for row in rows] == [
        "baseline",
        "prune",
        "distill",
        "quantize",
        "export-int4 (candidate)",
    ]
    assert (
        {row.count("|") for row in rows}
        == {lines[start].count("|")}
        == {lines[start + 1].count("|")}
    )
    assert (
        "- **FAIL**: decode\\_tok\\_s/p50 2.64, limit ratio &gt;= 3 (81.2 tok/s → 215 tok/s)"
        in lines
    )
    evidence = "-0.005 to 0.045 on 200 samples; about 3,391 samples would decide"
    check = "accuracy/copying 0.0200, limit drop &lt;= 0.01"
    assert f"- inconclusive: {check} (0.920 → 0.900; {evidence})" in lines


def test_tasks_are_derived_not_known() -> None:
    ledger = json.loads(json.dumps(make_ledger()).replace("/reasoning", "/a/b"))
    head = Page(render_html(ledger)).rows[0]
    assert head[2:5] == [
        "exact match ± stderr a/b, n=200",
        "exact match ± stderr copying, n=200",
        "perplexity a/b, n=51,200",
    ]
