"""What a version is judged by: what the artifact's run says, unless the user names something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgewright.benchmarks.options import EvaluateOptions
from edgewright.checkpoints.hashing import content_hash, write_provenance
from edgewright.errors import UsageError
from edgewright.pipeline import acceptance as module
from edgewright.pipeline.acceptance import USUAL, Yardstick, acceptance_of, runtime_of
from edgewright.pipeline.ledger import Ledger
from edgewright.targets.acceptance.judge import Known
from edgewright.targets.acceptance.reference import Reference
from edgewright.targets.deploy_job import Acceptance
from edgewright.targets.options import AcceptanceOptions, DeployOptions

NOTHING = Yardstick(EvaluateOptions())
PARITY = {"parity/top1_prefill": 0.99, "parity/top1_decode": 0.98, "parity/kl": 0.001}
RECIPE = {
    "evaluate": {"tasks": ["reasoning", "choice:FILE"], "limit": 9, "max_new_tokens": 50},
    "gate": {
        "candidate": "int4",
        "baseline": "baseline",
        "limits": {"accuracy/reasoning": {"max_drop": 0.5}},
        "confidence": 0.9,
        "resamples": 500,
        "seed": 0,
        "inconclusive": "fail",
    },
}


@pytest.fixture
def run(tmp_path: Path, make_model: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a checkpoint, an artifact of it, and a baseline's measurement."""
    import shutil

    shutil.copytree(make_model("llama", num_hidden_layers=1), tmp_path / "gptq")
    artifact = tmp_path / "int4"
    shutil.copytree(tmp_path / "gptq", artifact)
    source = {"name": "gptq", "content_hash": content_hash(tmp_path / "gptq")}
    made = {"format": "onnx", "precision": "int4", "source": source, "parity": PARITY}
    write_provenance(artifact, made)
    (tmp_path / "choices.jsonl").write_text("{}")
    recipe = {**RECIPE, "evaluate": {**RECIPE["evaluate"]}}
    recipe["evaluate"]["tasks"] = ["reasoning", f"choice:{tmp_path / 'choices.jsonl'}"]
    ledger = Ledger(tmp_path)
    ledger.begin(recipe, "edgewright run")
    metrics = {"accuracy/reasoning": 0.9}
    entry = {"kind": "baseline", "metrics": metrics, "context": {"problems/reasoning": 9}}
    ledger.put({"name": "baseline", **entry}, ["baseline"])

    def answered(path: Path, options: AcceptanceOptions) -> Reference:
        return Reference(path, str(options.questions), (), (), {})

    monkeypatch.setattr(module, "reference_answers", answered)
    return tmp_path


def accepting(artifact: Path, yardstick: Yardstick = NOTHING, **options: Any) -> Acceptance:
    found, _ = acceptance_of(artifact, AcceptanceOptions(**options), yardstick)
    assert found is not None
    return found


def test_everything_comes_from_the_run(run: Path) -> None:
    found, notes = acceptance_of(run / "int4", AcceptanceOptions(questions=7), NOTHING)
    assert found is not None
    assert found.exam.reference is not None
    assert (found.exam.reference.path, found.exam.reference.identity) == (run / "gptq", "7")
    assert [task.kind for task in found.exam.tasks] == ["reasoning"]
    assert (found.exam.evaluate.limit, found.exam.evaluate.max_new_tokens) == (9, 50)
    assert "choice:" in notes[0]
    assert "was not scored on the device" in notes[0]
    judge = found.judge
    assert judge.baseline is not None
    assert judge.baseline["metrics"] == {"accuracy/reasoning": 0.9}
    assert (judge.policy.inconclusive, judge.policy.confidence) == ("fail", 0.9)
    assert judge.policy.limits["accuracy/reasoning"].max_drop == 0.5
    assert judge.known == Known(0.98, 0.001, "the export")


def test_what_is_named_goes_before(run: Path, make_model: Any) -> None:
    policy = run / "policy.yaml"
    policy.write_text("accuracy/reasoning: {min: 0.1}\n")
    named = Yardstick(EvaluateOptions(tasks=("gym:chain_sum",), limit=5), policy, f"{run}:baseline")
    other = make_model("llama", seed=5, num_hidden_layers=1)
    found = accepting(run / "int4", named, reference=other, keep_rejected=True)
    assert [task.name for task in found.exam.tasks] == ["chain_sum"]
    assert found.exam.evaluate.limit == 5
    assert found.judge.policy.limits["accuracy/reasoning"].min == 0.1
    assert found.judge.policy.inconclusive == "warn"
    assert found.keep_rejected
    assert found.exam.reference is not None
    assert found.exam.reference.path == other
    assert found.judge.known == USUAL


def test_a_difference_that_the_run_measured_is_known(run: Path, make_model: Any) -> None:
    ledger = Ledger.load(run)
    metrics = {"top1_agreement/wiki": 0.91, "top1_agreement/code": 0.95, "kl/wiki": 0.04}
    ledger.put({"name": "gptq", "kind": "quantize", "metrics": metrics}, ["baseline", "gptq"])
    other = make_model("llama", seed=5, num_hidden_layers=1)
    assert accepting(run / "int4", reference=other).judge.known == Known(0.91, 0.04, "the run")


def test_without_the_checkpoint_nothing_is_compared(run: Path) -> None:
    (run / "gptq" / "generation_config.json").write_text('{"eos_token_id": 7}')
    found, notes = acceptance_of(run / "int4", AcceptanceOptions(), NOTHING)
    assert found is not None
    assert found.exam.reference is None
    assert "--reference names it" in notes[1]
    (run / "ledger.json").unlink()
    found, notes = acceptance_of(run / "int4", AcceptanceOptions(), NOTHING)
    assert found is None
    assert acceptance_of(run / "int4", AcceptanceOptions(answers=False), NOTHING) == (None, [])


def test_a_task_of_whole_texts_is_refused(run: Path) -> None:
    named = Yardstick(EvaluateOptions(tasks=(f"choice:{run / 'choices.jsonl'}",)))
    with pytest.raises(UsageError, match="needs the logits of whole texts") as caught:
        acceptance_of(run / "int4", AcceptanceOptions(), named)
    assert "qa or code" in caught.value.hint


@pytest.mark.parametrize(
    ("file", "asked", "found"),
    [
        ("model.onnx", "auto", "onnxruntime"),
        ("model.onnx", "onnxruntime", "onnxruntime"),
        ("model.onnx", "tensorrt", "tensorrt"),
        ("model.gguf", "auto", "llama.cpp"),
        ("model.gguf", "llama.cpp", "llama.cpp"),
        ("model.gguf", "onnxruntime", ""),
        ("model.gguf", "tensorrt", ""),
        ("model.onnx", "llama.cpp", ""),
        ("model.safetensors", "auto", ""),
    ],
)
def test_the_runtime_follows_from_the_artifact(
    run: Path, file: str, asked: Any, found: str
) -> None:
    (run / "int4" / file).write_text("")
    options = DeployOptions(runtime=asked)
    if found:
        assert runtime_of(run / "int4", options, 64).name == found
        return
    with pytest.raises(UsageError, match=r"model\.(onnx|gguf)"):
        runtime_of(run / "int4", options, 64)


@pytest.mark.parametrize(
    ("made", "engine", "message"),
    [
        ({"format": "ort"}, True, "is in the format ort"),
        ({"precision": "int8-dynamic"}, True, "is int8-dynamic"),
        ({"cut": {"window": 64}}, True, "has a windowed cache"),
        ({}, False, "has no engine with --no-engine"),
    ],
)
def test_what_tensorrt_does_not_run(run: Path, made: Any, engine: bool, message: str) -> None:
    (run / "int4" / "model.onnx").write_text("")
    write_provenance(run / "int4", {"format": "onnx", "precision": "int4", **made})
    with pytest.raises(UsageError, match=message) as caught:
        runtime_of(run / "int4", DeployOptions(runtime="tensorrt", engine=engine), 64)
    assert caught.value.hint.endswith("or use --runtime onnxruntime")
