"""All that a measurement writes is declared, and unlike measurements are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.measure import (
    EvaluateOptions,
    LatencyOptions,
    Measurement,
    Reference,
    measure,
)
from edgewright.benchmarks.metrics import find, why_unlike
from edgewright.errors import UsageError

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: {version}}}
"""
STREAM = """task: stream
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{q}}}} {{{{q}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of an lm-eval task, an lm-eval task without answers, two sets of questions."""
    path = tmp_path_factory.mktemp("tasks")
    rows = [{"q": f"{i}+1=", "choices": ["a", "b"], "gold": i % 2} for i in range(8)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for version in (1, 2):
        text = TASK.format(name="mine", rows=path / "rows.jsonl", version=version)
        (path / f"version{version}.yaml").write_text(text)
    (path / "stream.yaml").write_text(STREAM.format(rows=path / "rows.jsonl"))
    for name, step in (("some", 1), ("other", 3)):
        (path / name).mkdir()
        questions = [
            {"question": f"{i * step}?", "choices": ["yes indeed", "no"], "answer": i % 2}
            for i in range(6)
        ]
        lines = "".join(json.dumps(question) + "\n" for question in questions)
        (path / name / "q.jsonl").write_text(lines)
    return path


Measure = Callable[..., Measurement]


@pytest.fixture(scope="module")
def bench(make_model: Callable[..., Path]) -> Measure:
    """Measures a task on a tiny model."""

    def run(task: str, limit: int = 6, shots: int | None = 0) -> Measurement:
        options = EvaluateOptions(tasks=(task,), limit=limit, shots=shots, latency=None)
        return measure(make_model("llama"), options)

    return run


def gated(new: Measurement, old: Measurement, name: str) -> str:
    sides = [
        {"name": side, "metrics": found.metrics, "context": found.context, "samples": found.samples}
        for side, found in (("new", new), ("old", old))
    ]
    return check_gate(*sides, Policy(limits={name: Limit(max_drop=1.0)}))["verdict"]


def test_everything_that_is_measured_is_declared(
    make_model: Callable[..., Path], folder: Path, text_file: Path
) -> None:
    options = EvaluateOptions(
        tasks=(
            "reasoning",
            f"choice:{folder}/some/q.jsonl",
            f"lm-eval:{folder}/version1.yaml",
            f"lm-eval:{folder}/stream.yaml",
        ),
        limit=4,
        max_new_tokens=4,
        perplexity=(f"text:{text_file}",),
        windows=4,
        seq_len=32,
        latency=LatencyOptions(prompt=4, new_tokens=2, runs=2, batches=(2,), prompts=(8,)),
    )
    model = make_model("llama")
    found = measure(model, options, reference=Reference(make_model("llama", seed=1), "cpu"))
    assert [name for name in found.metrics if find(name) is None] == []
    kinds = {name.partition("/")[0] for name in found.metrics}
    assert kinds >= {
        "accuracy",
        "accuracy_by_byte",
        "lm_eval",
        "perplexity",
        "kl",
        "top1_agreement",
        "ttft_ms",
        "token_ms",
        "decode_tok_s",
        "prefill_tok_s",
        "load_s",
        "peak_rss_bytes",
        "kv_cache_bytes",
        "size_bytes",
        "parameters",
    }
    unlike = {name: why_unlike(name, found.context, found.context) for name in found.metrics}
    assert {name: reason for name, reason in unlike.items() if reason} == {}
    assert len(found.context["reference/story"]) == 16
    assert found.context["task_version/stream"] is not None
    assert found.context["problems/stream"] == 4


def test_divergences_from_two_references_are_unlike(
    make_model: Callable[..., Path], text_file: Path
) -> None:
    options = EvaluateOptions(
        perplexity=(f"text:{text_file}",), windows=2, seq_len=16, latency=None
    )
    one, other = (
        measure(
            make_model("llama"), options, reference=Reference(make_model("llama", seed=s), "cpu")
        )
        for s in (1, 2)
    )
    assert "reference/story differs" in why_unlike("kl/story", one.context, other.context)
    assert why_unlike("perplexity/story", one.context, other.context) == ""


def test_lm_eval_with_other_shots_problems_or_version_is_refused(
    bench: Measure, folder: Path
) -> None:
    task = f"lm-eval:{folder}/version1.yaml"
    old = bench(task)
    assert old.context["task_version/mine"] == 1
    assert old.context["shots_used/mine"] == 0
    assert old.context["problems/mine"] == 6
    again = bench(task)
    others = (
        ("shots", bench(task, shots=2)),
        ("problems/mine", bench(task, limit=4)),
        ("task_version/mine", bench(f"lm-eval:{folder}/version2.yaml")),
    )
    for name in ("lm_eval/mine/acc", "lm_eval/mine/acc_norm", "accuracy/mine"):
        assert gated(again, old, name) == "pass"
        for field, new in others:
            with pytest.raises(UsageError, match=f"{field}.* differs"):
                gated(new, old, name)
    by_itself = bench(task, shots=None)
    assert gated(by_itself, old, "lm_eval/mine/acc") == "pass", "the task shows no examples"


def test_choices_by_byte_over_other_questions_or_shots_are_refused(
    bench: Measure, folder: Path
) -> None:
    old = bench(f"choice:{folder}/some/q.jsonl", limit=4)
    name = "accuracy_by_byte/q"
    assert gated(bench(f"choice:{folder}/some/q.jsonl", limit=4), old, name) == "pass"
    for field, new in (
        ("problems/q", bench(f"choice:{folder}/some/q.jsonl", limit=3)),
        ("problems_hash/q", bench(f"choice:{folder}/other/q.jsonl", limit=4)),
        ("shots/q", bench(f"choice:{folder}/some/q.jsonl", limit=4, shots=2)),
    ):
        with pytest.raises(UsageError, match=f"{field} differs"):
            gated(new, old, name)
