"""One step on its own: a valid result is reused, and anything that changed makes it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.hashing import PROVENANCE
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.errors import UsageError
from edgewright.pipeline.verb import run_verb
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
ROUND = QuantizeOptions(method="rtn", group_size=32)


def test_a_valid_result_is_reused(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    model = str(make_model("llama"))

    def run(**changes: Any) -> bool:
        settings = {"options": ROUND, "context": context} | changes
        return run_verb("quantize", model=model, out=out, **settings)["reused"]

    assert not run()
    recorded = json.loads((out / PROVENANCE).read_text())
    assert recorded["fingerprint"]
    assert recorded["result"]["notes"]
    assert (out / "README.md").is_file()
    assert run()
    assert not run(fresh=True)
    assert not run(context=replace(context, seed=1))
    assert not run(options=ROUND.model_copy(update={"group_size": 64}))
    assert not run()
    with (out / "config.json").open("a") as handle:
        handle.write("\n")
    assert not run()
    assert run()


def test_only_distill_runs_in_several_processes(
    make_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="quantize works in one process, and 2 were started"):
        run_verb("quantize", ROUND, str(make_model("llama")), tmp_path / "out", context)
    assert not list(tmp_path.iterdir())
