"""What a deployed version is judged by: found in the artifact's run, or named by the user.

The run that an artifact belongs to says most of it: which checkpoint it was exported from, the
recipe's tasks with their limits, the gate's policy, and the baseline's measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..benchmarks.gate.policy import Policy, load_policy
from ..benchmarks.ledger_files import read_ledger
from ..benchmarks.measurement_files import load_measurement
from ..benchmarks.options import EvaluateOptions
from ..benchmarks.tasks.task import Task
from ..benchmarks.without_logits import needs_logits
from ..checkpoints.config import end_tokens, model_path, resolve
from ..checkpoints.hashing import content_hash, read_provenance
from ..checkpoints.outputs import LEDGER
from ..checkpoints.tokenizer import load_tokenizer
from ..errors import Refused, UsageError
from ..export.onnx.runtime import MODEL
from ..models import FORMATS
from ..models.export_format import Runtime
from ..targets.acceptance.examine import Exam
from ..targets.acceptance.judge import Judge, Known
from ..targets.acceptance.reference import Reference, reference_answers
from ..targets.bundle import GGUF
from ..targets.deploy_job import Acceptance
from ..targets.options import AcceptanceOptions, DeployOptions
from ..targets.runtimes.interface import DeviceRuntime, RunSettings
from ..targets.runtimes.llama_cpp import LlamaCpp
from ..targets.runtimes.onnx import OnnxRuntime
from ..targets.runtimes.tensorrt import TensorRt
from .recipe import BASELINE

__all__ = ["Yardstick", "acceptance_of", "runtime_of"]

READS: dict[Runtime, str] = {"onnxruntime": MODEL, "tensorrt": MODEL, "llama.cpp": GGUF}
"""Runtimes that deployments start, and the file that each of them reads; `auto` is the first."""
USUAL = Known(0.9, 0.1, "a usual 4-bit quantization")
"""Of another checkpoint than the one that was exported, if nothing was measured."""


@dataclass(frozen=True)
class Yardstick:
    """What the user named to judge by; what is not named comes from the artifact's run.

    Attributes:
        evaluate: tasks, and their limits.
        policy: file of the gate's policy.
        baseline: measurement file, or RUN:STEP.
    """

    evaluate: EvaluateOptions
    policy: Path | None = None
    baseline: str | None = None


def runtime_of(artifact: Path, options: DeployOptions, context: int) -> DeviceRuntime:
    """The runtime that a deployment uses.

    Raises:
        UsageError: the runtime does not read this artifact.
    """
    able = [name for name, file in READS.items() if (artifact / file).is_file()]
    if not able:
        raise UsageError(
            f"{artifact}: neither {MODEL} nor {GGUF}, so nothing on a device reads it",
            "make an artifact with edgewright export --format onnx or --format gguf",
        )
    name = able[0] if options.runtime == "auto" else options.runtime
    if name not in able:
        wanted = next(file for runtime, file in READS.items() if runtime == name)
        raise UsageError(
            f"{artifact}: has no {wanted}, which {name} reads", f"use --runtime {able[0]}"
        )
    settings = RunSettings(
        options.python, options.threads, context, options.llama_server, options.provider
    )
    if name == "onnxruntime":
        return OnnxRuntime(settings)
    if name == "tensorrt":
        _check_engine(artifact, options)
        return TensorRt(settings)
    plain = load_tokenizer(artifact).encode("a", add_special_tokens=False)[-1]
    return LlamaCpp(settings, plain)


def _check_engine(artifact: Path, options: DeployOptions) -> None:
    """Refuse artifacts that TensorRT does not run as it has to here."""
    made = read_provenance(artifact)
    form, precision = str(made.get("format", "onnx")), str(made.get("precision"))
    if form not in FORMATS or "tensorrt" not in FORMATS[form].runtimes:
        reason, hint = f"is in the format {form}", "export it with --format tensorrt"
    elif precision == "int8-dynamic":
        reason, hint = "is int8-dynamic", "export it with --precision fp16 or int4"
    elif made.get("cut", {}).get("window"):
        reason, hint = "has a windowed cache", "export it without --window"
    elif not options.engine:
        reason, hint = "has no engine with --no-engine", "leave --no-engine out"
    else:
        return
    raise UsageError(
        f"{artifact}: {reason}, and TensorRT does not run it",
        f"{hint}, or use --runtime onnxruntime",
    )


def acceptance_of(
    artifact: Path, options: AcceptanceOptions, yardstick: Yardstick
) -> tuple[Acceptance | None, list[str]]:
    """What the version has to show, and notes; None: there is nothing to ask it.

    Raises:
        UsageError: a task cannot be scored on a device, or a named file is wrong.
        Refused: the checkpoint does not fit into memory.
    """
    run = _ledger_of_run(artifact)
    notes: list[str] = []
    wanted = run if options.answers else {}
    tasks, evaluate = _tasks(wanted, yardstick.evaluate, notes)
    source = _source(artifact, options, notes)
    if source is None and not tasks:
        return None, notes
    judge = Judge(
        _policy(run, yardstick),
        _baseline(artifact, run, yardstick),
        _known(artifact, source, run),
    )
    reference = _answers(source, options) if source else None
    tokenizer_of = source or artifact
    exam = Exam(
        str(read_provenance(artifact).get("precision", "unknown")),
        load_tokenizer(tokenizer_of),
        end_tokens(tokenizer_of),
        artifact,
        reference,
        tuple(tasks),
        evaluate,
    )
    return Acceptance(exam, judge, options.keep_rejected), notes


def _answers(source: Path, options: AcceptanceOptions) -> Reference:
    try:
        return reference_answers(source, options)
    except Refused as error:
        raise Refused(str(error), "--no-answers leaves the comparison out") from error


def _ledger_of_run(artifact: Path) -> Mapping[str, Any]:
    """The ledger of the run that an artifact belongs to; empty if it belongs to none."""
    file = artifact.resolve().parent / LEDGER
    return read_ledger(file) if file.is_file() else {}


def _recipe_part(run: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = (run.get("recipe") or {}).get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _tasks(
    run: Mapping[str, Any], given: EvaluateOptions, notes: list[str]
) -> tuple[list[Task], EvaluateOptions]:
    """The tasks to score on the device: the given ones, or those of the recipe that can be."""
    named = list(map(Task.parse, given.tasks))
    texts = [task for task in named if needs_logits(task)]
    if texts:
        raise UsageError(
            f"{texts[0].kind}:{texts[0].name}: needs the logits of whole texts, which no device "
            "sends",
            "score tasks there that generate answers: reasoning, gym, qa or code",
        )
    recipe = _recipe_part(run, "evaluate")
    if named or not recipe:
        return named, given
    try:
        evaluate = EvaluateOptions.model_validate(recipe)
        parsed = list(map(Task.parse, evaluate.tasks))
    except (ValidationError, UsageError) as error:
        reason = str(error).splitlines()[0]
        notes.append(f"the recipe's tasks were not scored on the device: {reason}")
        return [], given
    notes += [
        f"{task.kind}:{task.name} of the recipe was not scored on the device: it needs the logits "
        "of whole texts"
        for task in parsed
        if needs_logits(task)
    ]
    return [task for task in parsed if not needs_logits(task)], evaluate


def _source(artifact: Path, options: AcceptanceOptions, notes: list[str]) -> Path | None:
    """The checkpoint whose answers are the right ones; None if there is none."""
    if not options.answers:
        return None
    if options.reference:
        return resolve(model_path(str(options.reference)))
    made_from = read_provenance(artifact).get("source")
    if isinstance(made_from, dict):
        beside = artifact.resolve().parent / str(made_from.get("name"))
        named = beside.parent == artifact.resolve().parent and (beside / "config.json").is_file()
        if named and content_hash(beside) == made_from.get("content_hash"):
            return beside
    notes.append(
        "answers were not compared with the checkpoint's, which is not beside the artifact "
        "(--reference names it)"
    )
    return None


def _policy(run: Mapping[str, Any], yardstick: Yardstick) -> Policy:
    """The policy: that of the file, or of the recipe's gate, or the default one."""
    gate = _recipe_part(run, "gate")
    if yardstick.policy or not gate:
        return load_policy(yardstick.policy)
    return Policy.model_validate({k: v for k, v in gate.items() if k in Policy.model_fields})


def _baseline(
    artifact: Path, run: Mapping[str, Any], yardstick: Yardstick
) -> dict[str, Any] | None:
    """The measurement that the tasks are compared with; None if there is none."""
    if yardstick.baseline:
        return load_measurement(yardstick.baseline)
    name = str(_recipe_part(run, "gate").get("baseline", BASELINE))
    if any(step.get("name") == name for step in run.get("steps", [])):
        return load_measurement(f"{artifact.resolve().parent}:{name}")
    return None


def _known(artifact: Path, reference: Path | None, run: Mapping[str, Any]) -> Known:
    """How far the artifact is from the reference by what was measured before.

    The export compared it with the checkpoint that it was made from, whose weights it has bit for
    bit. From another checkpoint it differs by its quantization; its run may have measured that.
    """
    provenance = read_provenance(artifact)
    made_from = provenance.get("source")
    own = made_from.get("content_hash") if isinstance(made_from, dict) else None
    if reference is not None and own == content_hash(reference):
        parity = provenance.get("parity")
        found = parity if isinstance(parity, dict) else {}
        return _worst(found, "parity/top1", "parity/kl", "the export", Known())
    names = (artifact.resolve().name, made_from.get("name") if isinstance(made_from, dict) else "")
    steps = [step for step in run.get("steps", []) if step.get("name") in names]
    metrics = steps[0]["metrics"] if steps else {}
    return _worst(metrics, "top1_agreement/", "kl/", "the run", USUAL)


def _worst(metrics: Mapping[str, Any], top1: str, kl: str, where: str, otherwise: Known) -> Known:
    """The lowest agreement and the highest KL among metrics; `otherwise` if there are none."""
    agreements = [value for name, value in metrics.items() if name.startswith(top1)]
    divergences = [value for name, value in metrics.items() if name.startswith(kl)]
    if not (agreements and divergences):
        return otherwise
    return Known(float(min(agreements)), float(max(divergences)), where)
