"""The command after a verb: it parses, it names what was made, and `run` says where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_parsing import parse

from edgewright.commands.next_commands import after_bench, after_run, after_step, after_traces
from edgewright.compress.distill.options import DistillOptions
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.export.options import ExportOptions
from edgewright.pipeline.run_progress import RunProgress, duration

OUT = Path("my results") / "made"
STEPS: dict[str, tuple[str, Any, str]] = {
    "prune": ("prune", PruneOptions(heads=0.5), "edgewright distill"),
    "distill": ("distill", DistillOptions(), "edgewright quantize"),
    "iterate": ("iterate", PruneOptions(heads=0.5), "edgewright quantize"),
    "gptq": ("quantize", QuantizeOptions(), "--precision int4"),
    "smoothquant": ("quantize", QuantizeOptions(method="smoothquant"), "--precision int8 "),
    "int8": ("quantize", QuantizeOptions(method="int8"), "--precision int8-dynamic"),
    "two bits": ("quantize", QuantizeOptions(bits=2), "edgewright bench"),
    "onnx": ("export", ExportOptions(), "edgewright bench"),
    "gguf": ("export", ExportOptions(format="gguf"), "edgewright deploy"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_command_after_a_step_parses_and_reads_what_was_made(name: str) -> None:
    kind, options, part = STEPS[name]
    line = after_step(kind, options, "org/model", OUT)
    assert part in line
    assert str(OUT) in map(str, parse(line).values())


def test_the_commands_after_other_verbs_parse() -> None:
    assert parse(after_traces(OUT))["data"] == f"jsonl:{OUT}"
    assert parse(after_bench(OUT))["candidate"] == str(OUT)
    assert after_bench(None) == ""


def ledger(kind: str = "export", verdict: str = "pass", target: str | None = "board") -> Any:
    return {
        "recipe": {"target": target},
        "steps": [{"name": "baseline", "kind": "baseline"}, {"name": "last", "kind": kind}],
        "gate": {"verdict": verdict, "candidate": "last"},
    }


def test_after_a_run_its_artifact_is_deployed_if_its_gate_did_not_fail() -> None:
    found = parse(after_run(ledger(), OUT))
    assert (str(found["artifact"]), found["target"]) == (str(OUT / "last"), "board")
    assert after_run(ledger("prune"), OUT) == ""
    assert after_run(ledger(verdict="fail"), OUT) == ""
    assert after_run(ledger(target=None), OUT) == ""


def test_a_verb_ends_with_the_next_command_and_json_does_not(cli, make_model, tmp_path) -> None:
    words = ["quantize", make_model("llama"), "--method", "rtn", "--out", tmp_path / "int4"]
    code, _, error = cli(*words)
    assert code == 0
    assert f"next: edgewright export {tmp_path / 'int4'} --precision int4" in error
    assert "next:" not in "".join(cli(*words, "--json")[1:])


def test_progress_counts_steps_and_learns_the_times() -> None:
    now = [100.0]
    names = ["baseline", "prune", "distill", "quantize"]
    predicted = {"prune": 10.0, "distill": 60.0, "quantize": 20.0}
    progress = RunProgress(names, predicted, lambda: now[0])
    assert progress.heading("baseline") == "step 1 of 4"
    now[0] += 30
    progress.end("baseline", made=False)
    assert progress.heading("prune") == "step 2 of 4, 30 s so far"
    now[0] += 20  # twice the prediction
    progress.end("prune", made=True)
    assert progress.heading("distill") == "step 3 of 4, 50 s so far, about 3 min left"
    progress.end("distill", made=False)  # a step that was reused says nothing about the others
    assert progress.heading("quantize") == "step 4 of 4, 50 s so far, about 40 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5999, "1 h 40 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
