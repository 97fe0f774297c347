"""Ledgers, provenance and records of traces: an edited one is no result of edgewright's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from file_damage import DAMAGES, flip, flips

from edgewright.benchmarks.measure import Measurement
from edgewright.benchmarks.traces.options import TracesOptions
from edgewright.checkpoints.hashing import PROVENANCE, content_hash
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.errors import UsageError
from edgewright.pipeline import traces as traces_module
from edgewright.pipeline.ledger import Ledger, new_entry
from edgewright.pipeline.recipe import Recipe
from edgewright.pipeline.run import run_recipe
from edgewright.pipeline.traces import run_traces
from edgewright.pipeline.verb import run_verb
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
Cli = Callable[..., tuple[int, str, str]]
ROUND = QuantizeOptions(method="rtn", group_size=32)
ORDER = ["baseline", "prune"]


def written(folder: Path) -> Path:
    """A ledger of two measured steps."""
    ledger = Ledger(folder)
    for name in ORDER:
        entry = new_entry(name, name, {"heads": 0.5}, {"inputs": {"a": "b"}}, name)
        figures = {"metrics": {"size_bytes": 100}, "context": {"threads": 1}, "measured": "x"}
        ledger.put(entry | figures | {"output_hash": "c", "notes": ["note"]}, ORDER)
    return ledger.path


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in Ledger.load(folder).data["steps"]}


def test_a_flipped_bit_in_a_ledger_never_changes_an_entry(tmp_path: Path) -> None:
    file = written(tmp_path)
    expected = entries(tmp_path)
    good = file.read_bytes()
    for bit in flips(file, 400):
        flip(file, bit)
        try:
            found = entries(tmp_path)
        except UsageError as error:
            assert str(file) in str(error)
            assert "--fresh" in error.hint
            found = {}
        for name, entry in found.items():
            unmeasured = expected[name] | {"metrics": {}, "context": {}}
            unmeasured.pop("measured")
            assert entry in (expected[name], unmeasured | {"check": entry["check"]}), f"bit {bit}"
        file.write_bytes(good)


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_of_a_ledger_is_one_message_and_a_donor_is_left_out(
    damage: str, tmp_path: Path
) -> None:
    DAMAGES[damage](written(tmp_path))
    with pytest.raises(UsageError, match=r"ledger\.json: ") as caught:
        Ledger.load(tmp_path)
    assert "--fresh" in caught.value.hint
    assert Ledger.donors([tmp_path]) == []


def test_an_edited_figure_is_measured_again_and_an_edited_step_made_again(tmp_path: Path) -> None:
    file = written(tmp_path)
    data = json.loads(file.read_text())
    data["steps"][0]["metrics"]["size_bytes"] = 1
    data["steps"][1]["notes"] = ["parity perfect"]
    file.write_text(json.dumps(data))
    ledger = Ledger.load(tmp_path)
    assert [(e["name"], e["metrics"]) for e in ledger.data["steps"]] == [("baseline", {})]
    assert ledger.altered["baseline"].startswith("measured again: ")
    assert ledger.altered["prune"].startswith("made again: ")


def test_a_deployment_of_an_older_version_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    data = json.loads(file.read_text())
    record = {"name": "a@nano", "kind": "deploy", "metrics": {"load_s": 1.0}}
    data["steps"].append(record)
    file.write_text(json.dumps(data))
    assert entries(tmp_path)["a@nano"] == record
    data["steps"][-1] = record | {"check": {"made": "x", "measured": "y"}}
    file.write_text(json.dumps(data))
    assert "a@nano" not in entries(tmp_path)
    assert "deployment a@nano: left out" in " ".join(capsys.readouterr().err.split())


def test_a_gate_does_not_pass_by_an_edited_ledger(
    make_model: MakeModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Case 421: a figure that was typed into the ledger is measured again, and nothing else is."""
    sizes = iter(range(100, 110))

    def measured(*_: Any, **__: Any) -> Measurement:
        return Measurement({"size_bytes": next(sizes)}, {"threads": 1})

    monkeypatch.setattr("edgewright.pipeline.measured.measure", measured)
    recipe = Recipe.model_validate(
        {
            "model": str(make_model("llama")),
            "device": "cpu",
            "evaluate": {"tasks": [], "perplexity": []},
            "steps": [{"kind": "quantize", "method": "rtn", "group_size": 32}],
            "calibration": {"source": "builtin:reasoning", "samples": 1, "seq_len": 32},
            "gate": {"candidate": "quantize", "limits": {"size_bytes": {"max_ratio": 0.01}}},
        }
    )
    out = tmp_path / "run"
    assert run_recipe(recipe, out)["gate"]["verdict"] == "fail"
    before = content_hash(out / "quantize")
    file = out / "ledger.json"
    file.write_text(file.read_text().replace('"size_bytes": 101', '"size_bytes": 1'))
    capsys.readouterr()
    again = run_recipe(recipe, out)
    said = " ".join(capsys.readouterr().err.split())
    assert (again["gate"]["verdict"], again["steps"][1]["metrics"]["size_bytes"]) == ("fail", 102)
    assert again["steps"][0]["metrics"]["size_bytes"] == 100
    assert "measured again: its entry" in said
    assert content_hash(out / "quantize") == before
    samples = out / "samples" / "baseline.json"
    samples.write_text(samples.read_text() + " ")
    assert run_recipe(recipe, out)["steps"][0]["metrics"]["size_bytes"] == 103
    assert "baseline.json was altered" in " ".join(capsys.readouterr().err.split())


# One step on its own


def test_a_damaged_record_of_an_output_is_made_again(
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Case 409: without --fresh and with it, and an edited result is never shown as reused."""
    out = tmp_path / "out"
    model = str(make_model("llama"))

    def run(**changes: Any) -> dict[str, Any]:
        return run_verb("quantize", ROUND, model, out, replace(context), **changes)

    first = run()
    good = (out / PROVENANCE).read_bytes()
    expected = content_hash(out)
    for name, damage in DAMAGES.items():
        for fresh in (False, True) if name == "half" else (False,):
            damage(out / PROVENANCE)
            capsys.readouterr()
            again = run(fresh=fresh)
            assert not again["reused"]
            assert again["notes"] == first["notes"]
            assert ("made again: " in capsys.readouterr().err) is not fresh
            assert content_hash(out) == expected
    for bit in flips(out / PROVENANCE, 6):
        (out / PROVENANCE).write_bytes(good)
        flip(out / PROVENANCE, bit)
        assert run()["notes"] == first["notes"]
    (out / PROVENANCE).write_bytes(good.replace(b'"notes": [', b'"notes": ["parity perfect", '))
    assert not run()["reused"]
    assert content_hash(out) == expected


def test_a_damaged_artifact_is_refused_by_those_who_read_it(cli: Cli, tmp_path: Path) -> None:
    artifact = tmp_path / "x"
    artifact.mkdir()
    (artifact / "model.onnx").touch()
    for damage in DAMAGES.values():
        (artifact / PROVENANCE).write_text('{"precision": "int4", "opset": 21, "shape": {}}')
        damage(artifact / PROVENANCE)
        bundle = ["deploy", artifact, "--target", "jetson-orin-nano-8gb", "--out", tmp_path / "b"]
        code, out, err = cli(*bundle)
        assert (code, out) == (2, "")
        assert f"{PROVENANCE}: damaged" in err
        if (artifact / PROVENANCE).is_dir():
            (artifact / PROVENANCE / "inside").rmdir()
            (artifact / PROVENANCE).rmdir()


def test_a_damaged_record_of_traces_is_made_again_or_is_one_message(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = iter(range(100))

    def make(_options: Any, _model: Any, _hash: Any, out: Path, *rest: Any) -> dict[str, Any]:
        next(made)
        report = {"kept": 1, "chains": 1}
        rest[3](hashlib.sha256(b'{"prompt": "a"}\n').hexdigest(), report)
        out.write_text('{"prompt": "a"}\n')
        return report

    monkeypatch.setattr(traces_module, "make_traces", make)
    model = str(make_model("llama"))
    file = tmp_path / "o.jsonl"
    record = tmp_path / "o.report.json"

    def run(**changes: Any) -> bool:
        options = TracesOptions(prompts="builtin:reasoning")
        return run_traces(options, model, file, 0, "cpu", **changes)["reused"]

    assert not run()
    assert run()
    record.write_text(record.read_text().replace('"kept": 1', '"kept": 9'))
    assert not run(), "an edited report is not shown as the command's own"
    assert json.loads(record.read_text())["replaces"] is None, "nobody may find the old file again"
    traces = file.read_bytes()
    for name in ("half", "list", "number", "not UTF-8", "empty", "nested"):
        for fresh in (False, True):
            DAMAGES[name](record)
            damaged = record.read_bytes()
            try:
                assert not run(fresh=fresh)
            except UsageError as error:  # it might be another's: neither file is replaced
                assert "o." in str(error)
                assert "remove" in error.hint
                assert (file.read_bytes(), record.read_bytes()) == (traces, damaged)
                file.unlink()
                record.unlink()
                assert not run()
            assert run()
