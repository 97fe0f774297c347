"""The chain of a run: what each step bought and cost against the step that it started from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from report_ledger import Page, answered_run, make_ledger, metrics, step

from edgewright.benchmarks.ledger_files import read_ledger
from edgewright.benchmarks.report.chain import Link, chain_of, duration
from edgewright.benchmarks.report.chain_picture import NARROW, WIDE, Form, chain_svg
from edgewright.benchmarks.report.differences import judge, paired_by_step
from edgewright.benchmarks.report.ledger_view import parents_of, steps_of
from edgewright.benchmarks.report.report import render_html, render_markdown


def texts(changes: Any) -> list[str]:
    return [f"{change.label} {change.values}" for change in changes]


def branches() -> list[dict[str, Any]]:
    """Two ways from one baseline: a quantized model with its export, and a pruned one."""
    steps = [
        step("baseline", "baseline", metrics(0.9, 0.0, 50, 8e6, 10)),
        step("int4", "quantize", metrics(0.6, 0.0, 80, 2e6, 10)),
        step("onnx", "export", metrics(0.6, 0.0, 120, 4e6, 10), backend="onnx"),
        step("pruned", "prune", metrics(0.89, 0.0, 60, 6e6, 7)),
    ]
    steps[3]["config"]["from"] = "baseline"
    return steps


def test_each_step_is_compared_with_the_one_that_it_started_from() -> None:
    first, int4, onnx, pruned = chain_of(branches(), {"onnx": "candidate"})
    assert (first.parent, int4.parent, onnx.parent, pruned.parent) == (
        "",
        "baseline",
        "int4",
        "baseline",
    )
    assert texts(first.facts)[:2] == ["reasoning 0.900 ± 0.021", "copying 0.850 ± 0.018"]
    assert texts(int4.bought)[0] == "size 8.00 → 2.00 MB (0.250×)"
    assert "decode 50 → 80 tok/s (1.60×)" in texts(int4.bought)
    assert texts(int4.cost) == ["reasoning 0.900 → 0.600", "copying 0.850 → 0.550"]
    assert texts(onnx.cost) == ["size 2.00 → 4.00 MB (2.00×)"]
    assert texts(onnx.open) == ["decode, TTFT p50, peak memory new runtime"]
    assert texts(pruned.open) == ["reasoning 0.900 → 0.890", "copying 0.850 → 0.840"]
    assert onnx.role == "candidate" and int4.made == "quantize, 12 s, 1.26 GB"


def test_samples_decide_where_standard_errors_cannot(tmp_path: Path) -> None:
    """Both sides answered the same 200 problems, so that chance explains less."""
    run = answered_run(tmp_path)
    ledger = read_ledger(run / "ledger.json")
    steps = steps_of(ledger)
    paired = paired_by_step(run, ledger, parents_of(steps))
    assert set(paired) == {"prune", "distill", "quantize", "export-int4"}
    check = paired["prune"]["accuracy/reasoning"]
    assert check["verdict"] == "fail" and check["samples"] == 200
    found = judge("accuracy/reasoning", steps[1], steps[0], check)
    assert found is not None and found.outcome == "worse" and found.paired is check
    same = judge(
        "accuracy/reasoning", steps[4], steps[3], paired["export-int4"]["accuracy/reasoning"]
    )
    assert same is not None and same.outcome == "same"


def test_changed_samples_leave_the_standard_errors(tmp_path: Path) -> None:
    run = answered_run(tmp_path)
    (run / "samples" / "prune.json").write_text("{}")
    ledger = read_ledger(run / "ledger.json")
    paired = paired_by_step(run, ledger, parents_of(steps_of(ledger)))
    assert set(paired) == {"quantize", "export-int4"}


def test_noisy_speeds_are_no_change() -> None:
    steps = branches()
    steps[1]["context"] |= {"noisy": ["ttft_ms"]}
    link = chain_of(steps, {})[1]
    assert any(text.startswith("TTFT") for text in texts(link.open))
    assert any(text.startswith("decode") for text in texts(link.bought))
    found = judge("prefill_tok_s", steps[1], steps[0])
    assert found is not None and found.outcome == "open", "it is computed from the time"


@pytest.mark.parametrize("form", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_picture_has_a_dot_for_each_step_and_a_line_to_its_parent(form: Form) -> None:
    root = ElementTree.fromstring(chain_svg(chain_of(branches(), {"onnx": "candidate"}), form))
    dots = [(float(dot.get("cx", 0)), float(dot.get("cy", 0))) for dot in root.iter("circle")]
    assert len(dots) == 4 and len(list(root.iter("path"))) == 3
    assert dots[0][0] == dots[1][0] == dots[2][0] < dots[3][0], "a branch has a lane of its own"
    assert [dot.get("class") for dot in root.iter("circle")].count("chosen") == 1
    label = root.get("aria-label", "")
    assert "onnx from int4" in label and "pruned from baseline" in label
    shown = " ".join("".join(text.itertext()) for text in root.iter("text"))
    assert "+ size 8.00 → 2.00 MB (0.250×)" in shown and "− reasoning 0.900 → 0.600" in shown
    _, _, wide, high = map(float, root.get("viewBox", "").split())
    for text in root.iter("text"):
        assert float(text.get("y", 0)) <= high
        letters = len("".join(text.itertext()))
        assert float(text.get("x", 0)) + 0.5 * form.font * letters <= wide


def test_many_branches_and_long_names_stay_inside() -> None:
    links = [
        Link("start", "", "baseline"),
        *(Link("x" * 300 + str(i), "start", "") for i in range(40)),
    ]
    root = ElementTree.fromstring(chain_svg(links, NARROW))
    assert max(float(dot.get("cx", 0)) for dot in root.iter("circle")) < 100
    assert max(len("".join(text.itertext())) for text in root.iter("text")) <= 60


def test_one_step_alone_is_no_chain() -> None:
    assert chain_of(branches()[:1], {}) == []


def test_times_are_in_words() -> None:
    assert [duration(x) for x in (0.4, 12.3, 89, 100, 1051, 9000, 90000)] == [
        "0.4 s",
        "12 s",
        "89 s",
        "1.7 min",
        "18 min",
        "2.5 h",
        "25 h",
    ]


def test_the_report_shows_the_chain_after_the_contents() -> None:
    html = render_html(make_ledger())
    page = Page(html)
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href"]
    assert links == ["#chain", "#steps", "#charts", "#training", "#details"]
    places = [
        html.index(text) for text in ('aria-label="Verdict"', "<nav", 'id="chain"', 'id="steps"')
    ]
    assert places == sorted(places)
    assert html.count('class="chain wide"') == html.count('class="chain narrow"') == 1
    assert re.search(
        r"- distill: 12 s, 1.26 GB, from prune\n  - bought: ", render_markdown(make_ledger())
    )
