"""lm-eval on our backends: registered, and equal to its own model for transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks import lm_eval_harness as harness
from edgewright.errors import UsageError
from edgewright.export.onnx.export import export_onnx

REASONER = Path(__file__).parents[3] / "demo" / "model"
COMMON = """dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
"""
TASKS = {
    "local_choice": """task: local_choice
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
""",
    "local_text": """task: local_text
output_type: generate_until
doc_to_text: "<|user|>\\n{{{{question}}}}\\n<|assistant|>\\n<think>\\n"
doc_to_target: "{{{{target}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 40, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - name: last_number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}
      - {{function: take_first}}
""",
    "local_stream": """task: local_stream
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}} {{{{question}}}} {{{{question}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
""",
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A multiple choice, a generation and a perplexity, as task files that stand by themselves."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "question": f"What is {a} + {b}?",
            "choices": [str(a + b), str(a * b), "none of them"],
            "answer": 0,
            "target": str(a + b),
        }
        for a, b in ((2, 5), (11, 6), (40, 2), (7, 7), (13, 30), (25, 8))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text((COMMON + text).format(data=folder / "rows.jsonl"))
    return {name: str(folder / f"{name}.yaml") for name in TASKS}


def evaluate(model: str, path: Path, files: list[str]) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model=model,
        model_args={"pretrained": str(path), "dtype": "float32"},
        tasks=files,
        task_manager=TaskManager(include_defaults=False),
        bootstrap_iters=10,
        batch_size=2,
        device="cpu",
    )
    assert found is not None
    return found


def replies(found: dict[str, Any], task: str) -> list[Any]:
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["resps"] for sample in samples]


@pytest.fixture(scope="module")
def theirs(tasks: dict[str, str]) -> dict[str, Any]:
    return evaluate("hf", REASONER, list(tasks.values()))


def test_our_adapter_equals_lm_evals_own_model(
    tasks: dict[str, str], theirs: dict[str, Any]
) -> None:
    ours = evaluate("edgewright-torch", REASONER, list(tasks.values()))
    assert harness.TorchLM.__module__.startswith("edgewright"), (
        "importing the module registers the model"
    )
    for task in ("local_choice", "local_text"):
        assert ours["results"][task] == theirs["results"][task]
    assert replies(ours, "local_text") == replies(theirs, "local_text")
    assert len({str(reply) for reply in replies(ours, "local_text")}) > 3
    for mine, other in zip(
        replies(ours, "local_choice"), replies(theirs, "local_choice"), strict=True
    ):
        for (score,), (expected,) in zip(mine, other, strict=True):
            assert score[0] == pytest.approx(expected[0], abs=1e-4)
            assert score[1] == expected[1]
    for metric in ("word_perplexity,none", "byte_perplexity,none"):
        assert ours["results"]["local_stream"][metric] == pytest.approx(
            theirs["results"]["local_stream"][metric], rel=1e-5
        )


def test_texts_longer_than_the_model_are_cut_into_the_same_windows(
    make_model, tasks: dict[str, str]
) -> None:
    path = make_model("llama", max_position_embeddings=24)
    files = [tasks["local_stream"], tasks["local_choice"]]
    ours, hf = (evaluate(model, path, files)["results"] for model in ("edgewright-torch", "hf"))
    assert ours["local_stream"]["bits_per_byte,none"] == pytest.approx(
        hf["local_stream"]["bits_per_byte,none"], rel=1e-5
    )
    assert ours["local_choice"] == hf["local_choice"]


def test_an_artifact_agrees_with_its_checkpoint_within_parity(
    tasks: dict[str, str], theirs: dict[str, Any], tmp_path: Path
) -> None:
    export_onnx(REASONER, tmp_path / "onnx", "fp32")
    ours = evaluate("edgewright-onnx", tmp_path / "onnx", list(tasks.values()))
    for task in ("local_choice", "local_text"):
        assert ours["results"][task] == theirs["results"][task]
    metric = "word_perplexity,none"
    assert ours["results"]["local_stream"][metric] == pytest.approx(
        theirs["results"]["local_stream"][metric], rel=1e-3
    )


def test_a_task_file_is_measured_by_the_bench(
    tasks: dict[str, str], theirs: dict[str, Any]
) -> None:
    names = tuple(f"lm-eval:{tasks[name]}" for name in ("local_text", "local_choice"))
    found = measure(REASONER, EvaluateOptions(tasks=names, limit=6, latency=None))
    assert (
        found.metrics["accuracy/local_text"]
        == theirs["results"]["local_text"]["exact_match,last_number"]
    )
    assert found.metrics["accuracy/local_choice"] == theirs["results"]["local_choice"]["acc,none"]
    assert (
        found.metrics["lm_eval/local_choice/acc_norm"]
        == theirs["results"]["local_choice"]["acc_norm,none"]
    )
    assert found.metrics["lm_eval/local_text/exact_match,last_number.stderr"] >= 0
    assert len(found.samples["accuracy/local_text"]["correct"]) == 6
    assert {a["task"] for a in found.answers} == {"local_text", "local_choice"}


def test_tasks_that_cannot_run_are_one_message(make_model, tmp_path: Path) -> None:
    odd = tmp_path / "odd.yaml"
    odd.write_text(
        "task: odd\ndataset_path: json\ndataset_kwargs: {data_files: /no/such.jsonl}\n"
        "test_split: train\n"
    )
    for name, message in (("/no/such.yaml", "no such file"), (str(odd), "lm-eval cannot run it")):
        with pytest.raises(UsageError, match=message):
            measure(make_model("llama"), EvaluateOptions(tasks=(f"lm-eval:{name}",), latency=None))
