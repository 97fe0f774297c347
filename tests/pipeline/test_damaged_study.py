"""A damaged study of a sweep is refused: what it decides by is in the ledgers of its runs too."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from file_damage import DAMAGES

from edgewright.errors import UsageError
from edgewright.pipeline.ledger import Ledger, new_entry
from edgewright.pipeline.sweep import run_sweep
from edgewright.pipeline.sweep_options import SweepOptions

pytest.importorskip("optuna")
RECIPE = """
model: builtin:tiny-reasoner
steps: [{kind: quantize, method: rtn, group_size: 32}]
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a sweep whose runs write ledgers, and nothing else; returns its directory."""
    (tmp_path / "r.yaml").write_text(RECIPE)

    def run(recipe: Any, folder: Path, *_: Any, **__: Any) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder)
        entry = new_entry("quantize", "quantize", {}, {}, "quantize")
        entry["metrics"] = {"size_bytes": 1000 + recipe.steps[0].group_size}
        ledger.data["plan"] = {"rows": []}
        ledger.put(entry, ["quantize"])
        return ledger.data

    monkeypatch.setattr("edgewright.pipeline.sweep.run_recipe", run)
    monkeypatch.setattr("edgewright.pipeline.sweep.write_sweep_report", lambda *_: [])

    def start() -> Path:
        options = SweepOptions.model_validate(
            {"vary": {"steps.quantize.group_size": [32, 64]}, "objective": ["size_bytes"]}
        )
        run_sweep(tmp_path / "r.yaml", [], options, tmp_path / "sweep")
        return tmp_path / "sweep"

    return start


@pytest.mark.parametrize(
    "change",
    [
        "update trial_values set value = 1.0 where trial_id = 1",
        "update trial_params set param_value = 1 - param_value",
        "update trial_user_attributes set value_json = '\"pass\"' where key = 'verdict'",
    ],
)
def test_an_edited_study_is_refused(change: str, sweep: Any) -> None:
    file = sweep() / "study.db"
    assert sweep(), "the study itself is fine"
    connection = sqlite3.connect(file)
    connection.execute(change)
    connection.commit()
    connection.close()
    with pytest.raises(UsageError, match=r"study\.db: damaged: trial 0") as caught:
        sweep()
    assert "remove it" in caught.value.hint
    file.unlink()
    assert sweep()


@pytest.mark.parametrize("damage", ["half", "list", "not UTF-8", "zeros", "directory"])
def test_a_damaged_study_is_one_message(damage: str, sweep: Any) -> None:
    file = sweep() / "study.db"
    DAMAGES[damage](file)
    with pytest.raises(UsageError, match=r"study\.db: damaged"):
        sweep()
