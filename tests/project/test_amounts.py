"""What was used is said where it is less than what was asked for: for each option with an amount.

Every number that a verb takes is in one of two tables. `SAID`: the data may hold less, and then a
note has both numbers. `EXACT`: it is done exactly or refused, or it is a limit, a size or a share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.kv_cache.options import KvOptions
from edgewright.benchmarks.kv_cache.study import kv_study
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.traces import traces
from edgewright.benchmarks.traces.options import TracesOptions
from edgewright.benchmarks.traces.teacher_questions import read_questions
from edgewright.commands import compress, deliver, measure, project
from edgewright.commands.verb import Verb
from edgewright.compress.distill.early_stop import summarize_early_stop
from edgewright.compress.iterate import runner as iterate_runner
from edgewright.compress.iterate.options import IterateOptions
from edgewright.data.shortfall import shortfall
from edgewright.pipeline.bench import bench_path
from edgewright.steps.context import CalibrationData

MakeModel = Callable[..., Path]
MODULES = (compress, deliver, measure, project)


@dataclass
class Scene:
    """A tiny model, and data that hold little."""

    model: Path
    text: str
    choices: str
    out: Path


def bench(scene: Scene, **options: Any) -> list[str]:
    found = bench_path(
        scene.model, EvaluateOptions(latency=None, seq_len=32, **options), "cpu", None, None
    )
    counts = {**found["context"], **found["metrics"]}
    name = next(n for n in counts if n.startswith(("windows/", "problems/")))
    return [f"{counts[name]:.0f} recorded", *found["notes"]]


def kv_windows(scene: Scene) -> list[str]:
    options = KvOptions(perplexity=(scene.text,), windows=5000, seq_len=32, scales=("dynamic",))
    found = kv_study(scene.model, options, [])
    used = next(value for name, value in found["context"].items() if name.startswith("windows/"))
    return [f"{used} recorded", *found["notes"]]


def samples(scene: Scene) -> list[str]:
    data = CalibrationData(scene.text, samples=5000, seq_len=32)
    rows = data.rows(scene.model, 0)
    return [f"{data.used(rows)['samples']} recorded", *data.notes(rows)]


def trace_questions(scene: Scene) -> list[str]:
    file = scene.out / "questions.jsonl"
    rows = [{"question": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, _ = read_questions(f"jsonl:{file}", 5000, 0)
    options = TracesOptions(prompts=f"jsonl:{file}", limit=5000)
    return [f"{len(questions)} recorded", *traces.missing_questions(options, len(questions))]


def iterate_notes(used: int) -> list[str]:
    options = IterateOptions.model_validate(
        {"prune": {"ffn": 0.5}, "rounds": 5000, "held_out_rows": 5000}
    )
    points = [iterate_runner.Point(0, 10, 2, 4, 2, 1.0)]
    result = iterate_runner._result(options, points, points[0], "why", used, used)
    return [f"{used} recorded", *result.notes]


SAID: dict[str, Callable[[Scene], list[str]]] = {
    "Calibration.samples": samples,
    "EvaluateOptions.windows": lambda s: bench(s, perplexity=(s.text,), windows=5000),
    "EvaluateOptions.limit": lambda s: bench(s, tasks=(s.choices,), limit=5000),
    "KvOptions.windows": kv_windows,
    "TracesOptions.limit": trace_questions,
    "IterateOptions.rounds": lambda _: iterate_notes(2),
    "IterateOptions.held_out_rows": lambda _: iterate_notes(3),
    "SweepOptions.trials": lambda _: ["4 recorded", *shortfall(4, 5000, "trials", "no more")],
    **dict.fromkeys(
        ("StageFlags.hidden_steps", "StageFlags.logit_steps", "StageFlags.label_steps"),
        lambda _: ["2 recorded", summarize_early_stop("labels", [[0, 1.0], [2, 2.0]], 5000, 4)],
    ),
}
EXACT = """
AcceptanceOptions: answer_tokens question_seed questions
Budget: context decode_tok_s memory_bytes parameters
BundleOptions: batch context prompt
Calibration: seq_len
CheckOptions: batch context
DeployOptions: threads
DistillOptions: accumulate batch_size hold_out save_every seq_len
EarlyStopOptions: every patience
EvaluateOptions: max_new_tokens seq_len shots
Execution: seed
ExportOptions: sinks window
HostOptions: port
IterateOptions: max_loss_increase
KvOptions: contexts limit max_new_tokens seq_len
LatencyOptions: batches contexts new_tokens prompt prompts runs
LoadOptions: concurrency output_tokens prompt_tokens request_rate request_seconds requests seed
LoadOptions: retries time_limit warm_up
LoraOptions: alpha r
PlanInputs: batch context draft_agreement draft_tokens
PruneOptions: experts ffn ffn_threshold heads heads_threshold kv_heads layers merge_kv
QatOptions: bits group_size
QuantizeOptions: alpha bits damp embedding_bits group_size head_bits hessian_tokens kv_bits refine
RecoverOptions: accumulate batch_size hold_out save_every seq_len
Sensitivity: budget keep_bits
ServeLimits: grace_seconds keep_alive_seconds max_body_bytes max_choices max_connections
ServeLimits: max_messages max_new_tokens max_prompt_characters max_schema_bytes
ServeLimits: max_stop_characters max_stops max_tools max_waiting request_seconds stall_seconds
ServeOptions: context max_batch port prefix_cache_mb threads
StageFlags: attention hard lr on_policy temperature
SweepOptions: minutes seed
TeacherCacheOptions: top_k
TracesOptions: agreement chains keep max_entropy max_new_tokens max_tokens min_tokens temperature
TracesOptions: top_p
Verification: activation_budget
"""


def numbers_of_all_verbs() -> set[str]:
    """`Model.field` of each option that takes a number."""
    verbs = {v for module in MODULES for v in vars(module).values() if isinstance(v, Verb)}
    options = [option for verb in verbs for option in verb.options]
    return {
        f"{option.field[0].__name__}.{option.field[1]}"
        for option in options
        if any(kind in str(option.type) for kind in ("int", "float"))
    }


def test_every_number_is_in_one_table() -> None:
    exact = {
        f"{model}.{name}"
        for model, _, names in (line.partition(": ") for line in EXACT.strip().splitlines())
        for name in names.split()
    }
    assert not exact & SAID.keys()
    unknown = numbers_of_all_verbs() - exact - SAID.keys()
    assert not unknown, "say in this test what happens if the data holds less"


@pytest.mark.parametrize("option", SAID)
def test_less_than_asked_for_is_said(
    option: str, make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "choices.jsonl"
    rows = [{"question": f"{n}?", "choices": ["yes", "no"], "answer": 0} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = make_model("llama", num_hidden_layers=1)
    scene = Scene(model, f"text:{text_file}", f"choice:{file}", tmp_path)
    recorded, *notes = SAID[option](scene)
    used = recorded.split()[0]
    assert 0 < int(used) < 5000
    told = re.findall(r"\d+", "\n".join(notes).replace(",", ""))
    assert used in told
    assert "5000" in told
