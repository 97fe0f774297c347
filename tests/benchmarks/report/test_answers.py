"""The answers of baseline and candidate in a report: which are shown, and what if none is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_ledger import Page, answered_run, made_answers, make_ledger
from test_hostile_text import HOSTILE, Skeleton, check_html, check_markdown, tokens

from edgewright.benchmarks.measurement_files import write_answers
from edgewright.benchmarks.report.answers import Answers, answers_of
from edgewright.benchmarks.report.report import RunFiles, render_html, render_markdown
from edgewright.checkpoints.hashing import file_hash


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return answered_run(tmp_path / "run")


def ends(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    steps = json.loads((run / "ledger.json").read_text())["steps"]
    return steps[0], steps[-1]


def read(run: Path) -> Answers:
    found = answers_of(run, *ends(run))
    assert found is not None
    return found


def test_ten_questions_are_spread_over_the_tasks_whatever_was_answered(run: Path) -> None:
    found = read(run)
    assert (found.before, found.after, found.total) == ("baseline", "export-int4", 400)
    assert [pair.task for pair in found.pairs] == ["reasoning"] * 5 + ["copying"] * 5
    assert [pair.expected for pair in found.pairs[:5]] == ["0", "80", "160", "240", "320"]
    assert found.pairs[0].title == "what is 0 + 0 in reasoning?", "what is equal in all is left out"
    assert "Answer this question" in found.pairs[0].question
    assert found.pairs[0].was_right and found.pairs[0].is_right


def test_all_answers_are_counted(run: Path) -> None:
    """0.97 and 0.95 of 200 are right, the first ones: 4 were lost and none was gained."""
    counts = read(run).counts
    assert counts is not None
    assert [[cell.text for cell in row] for row in counts.rows] == [
        ["reasoning", "190", "4", "0", "6"],
        ["copying", "190", "4", "0", "6"],
    ]


def test_the_report_shows_them_folded(run: Path) -> None:
    page = Page(render_html(make_ledger(), RunFiles(answers=read(run))))
    text = "\n".join(page.texts)
    assert "10 of 400 questions" in text
    assert "what is 40 + 40 in copying?" in text
    assert page.tags.count("pre") >= 30
    markdown = render_markdown(make_ledger(), RunFiles(answers=read(run)))
    assert "- ✓ → ✓ copying: what is 40 + 40 in copying?" in markdown


@pytest.mark.parametrize("name", ["baseline", "export-int4"])
def test_texts_that_were_not_kept_are_said_to_be_gone(run: Path, name: str) -> None:
    (run / "samples" / f"{name}.jsonl").unlink()
    assert read(run).missing == f"The texts of the answers of {name} were not kept."
    text = "\n".join(Page(render_html(make_ledger(), RunFiles(answers=read(run)))).texts)
    assert f"The texts of the answers of {name} were not kept." in text


def test_changed_texts_are_not_shown(run: Path) -> None:
    with open(run / "samples" / "baseline.jsonl", "a") as file:
        file.write("{}\n")
    assert "was changed after edgewright wrote it" in read(run).missing


def test_files_outside_of_the_run_are_not_read(run: Path) -> None:
    before, after = ends(run)
    secret = run.parent / "secret.jsonl"
    secret.write_text((run / "samples" / "baseline.jsonl").read_text())
    before["samples"] = "../secret.json"
    found = answers_of(run, before, after)
    assert found is not None and "were not kept" in found.missing


@pytest.mark.parametrize("line", ["{", "[]", '{"task": 3}', "[" * 5000])
def test_damaged_answers_do_not_stop_a_report(run: Path, line: str) -> None:
    before, after = ends(run)
    (run / "samples" / "baseline.jsonl").write_text(f"{line}\n")
    before["sample_files"] = {}
    found = answers_of(run, before, after)
    assert found is not None and found.missing and str(run.parent) not in found.missing


def test_a_run_without_tasks_has_no_section() -> None:
    ledger = make_ledger()
    steps = [{**one, "metrics": {"size_bytes": 1.0}} for one in ledger["steps"]]
    assert answers_of(Path("nowhere"), steps[0], steps[1]) is None
    assert "Answers before" not in render_html(ledger)


def hostile(run: Path, text: str) -> RunFiles:
    """The files of a run with a text in all places of all answers."""
    for entry in ends(run):
        file = run / "samples" / f"{entry['name']}.jsonl"
        answers = [
            {**one, "question": f"{text}{at}", "text": text, "expected": text}
            for at, one in enumerate(made_answers(100)[:12])
        ]
        write_answers(file, json.loads(json.dumps(answers).replace("\\ud800", "")))
        recorded = json.loads((run / "ledger.json").read_text())
        for step in recorded["steps"]:
            if step["name"] == entry["name"]:
                step["sample_files"][f"samples/{file.name}"] = file_hash(file)
        (run / "ledger.json").write_text(json.dumps(recorded))
    return RunFiles(answers=read(run))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_answers_are_text_whatever_they_contain(run: Path, text: str) -> None:
    clean = RunFiles(answers=read(run))
    ledger = make_ledger() | {"steps": make_ledger()["steps"][:1]}
    page = Skeleton(render_html(ledger, clean))
    markdown = tokens(render_markdown(ledger, clean))
    found = hostile(run, text)
    check_html(render_html(ledger, found), page)
    check_markdown(render_markdown(ledger, found), markdown)
