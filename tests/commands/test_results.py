"""What the Python API returns, as a terminal and a notebook show it."""

from __future__ import annotations

import copy
import json
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_ledger import make_ledger

import edgewright as ew
from edgewright.commands.results import GateResult, Measurement, Plan, Result, Run, StepResult
from edgewright.commands.tables import show

EVIL = '<script>alert("x")</script> [bold]x[/bold] & \x1b[31m'
GATE: dict[str, Any] = {
    "verdict": "fail",
    "accepted": False,
    "candidate": EVIL,
    "baseline": "main",
    "confidence": 0.95,
    "checks": [
        {
            "metric": f"accuracy/{EVIL}",
            "baseline": 0.9,
            "candidate": 0.5,
            "limit": "ratio >= 0.95",
            "observed": 0.55,
            "verdict": "fail",
            "interval": (0.5, 0.6),
            "samples": 100,
            "samples_needed": None,
            "note": "",
        }
    ],
}
STEP: dict[str, Any] = {
    "output": "runs/int4",
    "reused": False,
    "seconds": 1.5,
    "notes": [f"calibrated on {EVIL}"],
    "details": {"modules": {"model.layers.0": {"error": 0.01, "rtn_error": 0.02}}},
}
BENCH: dict[str, Any] = {
    "name": EVIL,
    "metrics": {"accuracy/reasoning": 0.5, "accuracy/reasoning/stderr": 0.1, "size_bytes": 5e6},
    "context": {},
    "notes": [],
}


def test_no_view_of_the_terminal_shows_a_character_that_it_would_obey(
    capsys: pytest.CaptureFixture[str],
) -> None:
    evil = "x\x1b[2J\x9b31m\u202e\r\ud800y"
    gate = json.loads(json.dumps(GATE).replace(json.dumps(EVIL)[1:-1], json.dumps(evil)[1:-1]))
    gate |= {"missing": [f"perplexity/{evil}"]}
    gate["checks"][0]["note"] = evil
    found = {"name": evil, "metrics": {f"odd/{evil}": 1.0}, "context": {}, "notes": [evil]}
    ledger = make_ledger()
    ledger["gate"] = gate
    ledger["steps"][-1]["name"] = gate["candidate"]
    views = {"gate": gate, "bench": found, "ledger": ledger, "target": {evil: [evil]}}
    for view, value in views.items():
        show(value, False, view)
        shown = capsys.readouterr().out
        assert "x\N{REPLACEMENT CHARACTER}" in shown and "y" in shown, view
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", shown), view


class Tags(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def results() -> dict[str, Result]:
    ledger = make_ledger() | {"gate": GATE}
    row = {
        "step": EVIL,
        "precision": "int4",
        "parameters": 7,
        "weight_bytes": 5e6,
        "violations": [EVIL],
        "refused": [],
    }
    return {
        "gate": GateResult(GATE, "gate"),
        "step": StepResult(STEP, "step"),
        "bench": Measurement(BENCH, "bench"),
        "run": Run(ledger, "ledger"),
        "plan": Plan({"target": None, "rows": [row], "advice": [EVIL]}, "plan"),
    }


@pytest.mark.parametrize("name", list(results()))
def test_a_notebook_shows_tables_and_no_markup_of_others(name: str) -> None:
    page = Tags(results()[name]._repr_html_())
    assert page.open == []
    assert "table" in page.tags
    allowed = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert set(page.tags) <= allowed
    if "script" in json.dumps(results()[name]):
        assert "<script>alert" in page.text, "shown as text"


def test_both_show_the_same_cells() -> None:
    for result in results().values():
        shown = " ".join(Tags(result._repr_html_()).text.split())
        printed = repr(result)
        for word in ("0.55", "model.layers.0", "runs/int4", "int4"):
            assert (word in shown) == (word in printed), word


def test_repr_is_what_the_terminal_shows() -> None:
    text = repr(results()["step"])
    assert text.startswith("runs/int4: made in 1.5 s\n")
    assert "round-to-nearest" in text and "\x1b" not in text


def test_a_result_is_its_json() -> None:
    gate = results()["gate"]
    assert gate == GATE and json.loads(json.dumps(gate)) == json.loads(json.dumps(GATE))
    for same in (copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
        assert same == gate and repr(same) == repr(gate) and type(same) is GateResult


def test_properties() -> None:
    found = results()
    assert (found["gate"].verdict, found["gate"].accepted) == ("fail", False)
    assert found["gate"].checks is GATE["checks"]
    assert found["step"].output == Path("runs/int4") and found["step"].notes == STEP["notes"]
    assert found["bench"].metrics["size_bytes"] == 5e6 and found["bench"].context == {}
    assert found["plan"].rows[0]["step"] == EVIL
    run = found["run"]
    assert [step["name"] for step in run.steps]
    assert isinstance(run.gate, GateResult) and run.gate.verdict == run["gate"]["verdict"]
    assert Run({"steps": []}, "ledger").gate is None


def test_an_error_carries_its_hint_as_a_note(tmp_path: Path) -> None:
    with pytest.raises(ew.EdgewrightError, match="neither a measurement file") as caught:
        ew.gate(tmp_path / "none.json", baseline=tmp_path / "none.json")
    assert caught.value.hint and caught.value.__notes__ == [caught.value.hint]


def test_an_argument_may_be_a_path(make_model: Any) -> None:
    model = make_model("llama")
    assert ew.plan(model) == ew.plan(str(model))
    assert isinstance(ew.plan(model), Plan)
