"""Measures a model after a step: accuracy, divergence from the baseline, latency, memory, size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoints.artifacts import is_artifact, is_gguf, is_graph
from ..checkpoints.config import read_architecture, resolve
from ..checkpoints.hashing import read_provenance, weight_bytes
from ..checkpoints.loading import pick_device
from ..checkpoints.tokenizer import load_tokenizer
from ..console import console
from ..data.packing import Encoded, rows_hash
from ..data.rows import RowReport
from ..data.shortfall import shortfall
from ..data.sources import Source, scoring_rows
from ..models.kv_cache import element_bytes
from ..steps.memory_check import require_memory
from .bootstrap import share_error
from .inputs import parse_inputs
from .latency.latency import time_alone
from .measurement_files import (
    problem_samples,
    problems_hash,
    window_samples,
)
from .memory import alternatives, measurement_bytes
from .options import EvaluateOptions, LatencyOptions
from .reference import Reference
from .tasks.accuracy import Answer, cut_off_note, score_text
from .tasks.backends import Backend, open_backend
from .tasks.kept_answers import KeptAnswers
from .tasks.llama_backend import LlamaBackend
from .tasks.task import Task, TaskResult, TaskSettings, run_task
from .without_logits import require_no_logits

__all__ = ["Measurement", "add_task", "measure"]


@dataclass
class Measurement:
    """The result of measuring one model."""

    metrics: dict[str, float] = field(default_factory=dict)
    """By the names that `metrics.py` declares."""
    context: dict[str, Any] = field(default_factory=dict)
    """How it was measured: what must be equal before metrics are compared."""
    samples: dict[str, Any] = field(default_factory=dict)
    """The samples behind a metric, by its name."""
    answers: list[dict[str, Any]] = field(default_factory=list)
    """What the model wrote, for people to read."""
    notes: list[str] = field(default_factory=list)
    """Where less was measured than asked for, and what makes a number say less than it seems to."""

    def note(self, notes: Iterable[str]) -> None:
        """Add notes, and show them."""
        for note in notes:
            self.notes.append(note)
            console.print(note, highlight=False, markup=False)


def measure(
    path: Path,
    options: EvaluateOptions,
    *,
    device: str = "cpu",
    reference: Reference | None = None,
    kept: KeptAnswers | None = None,
    memory_check: bool = True,
) -> Measurement:
    """Measure a checkpoint or an artifact.

    Args:
        path: its directory.
        options: what to measure.
        device: where torch and llama.cpp run; ONNX artifacts run on the CPU.
        reference: the model that `kl/` and `top1_agreement/` compare with.
        kept: answers of an interrupted measurement of the same; new ones are added.
        memory_check: refuse what is predicted not to fit into memory.

    Raises:
        Refused: the measurement needs more memory than is free.
        UsageError: there is no model at `path`, a source or task is empty or unknown, two of them
            have the same name in metrics, or the runtime of an artifact cannot measure one of them.
    """
    tasks = parse_inputs(options.tasks, Task.parse)
    sources = parse_inputs(options.perplexity, Source.parse)
    if is_gguf(path):
        resolve(path)
        require_no_logits(path.name, options)
    if memory_check:
        _check_memory(path, options, device, reference)
    backend = open_backend(path, device, options.dtype, options.llama_server)
    tokenizer = load_tokenizer(path)
    result = Measurement(context=_environment(backend))
    texts = {source.label: _read_text(result, source, tokenizer, options) for source in sources}
    settings = TaskSettings.of(options, result.context["threads"])
    for task in tasks:
        outcome = run_task(task, backend, tokenizer, path, settings, kept)
        add_task(result, outcome, options, backend.dtype if backend.name == "torch" else None)
    for label, rows in texts.items():
        _add_text(result, label, backend, rows, reference)
    if not tasks:
        result.context["dtype"] = backend.dtype
    result.metrics["size_bytes"] = weight_bytes(path)
    result.metrics["parameters"] = read_architecture(path).parameters
    del backend
    if options.latency:
        _add_latency(result, path, options.latency, options.llama_server)
    return result


def add_task(
    result: Measurement, outcome: TaskResult, options: EvaluateOptions, dtype: str | None = None
) -> None:
    """Add what a task found. `dtype` is what torch computed the answers in; None: it did not."""
    for label, answers in outcome.answers.items():
        _add_answers(result, label, answers, options)
        if dtype:
            result.context[f"dtype/{label}"] = dtype
    result.metrics |= outcome.metrics
    result.context |= outcome.context


def _add_latency(
    result: Measurement, path: Path, options: LatencyOptions, llama_server: str
) -> None:
    """Add latency and memory, measured in a process of its own."""
    metrics, conditions = time_alone(
        path, options, result.context["device"], result.context["threads"], llama_server
    )
    result.metrics |= metrics | _cache_sizes(path, options)
    result.context |= conditions


def _check_memory(
    path: Path, options: EvaluateOptions, device: str, reference: Reference | None
) -> None:
    """Refuse a measurement that does not fit into memory; see `measure`."""
    if not (is_artifact(path) or (path / "config.json").is_file()):
        return  # no model, which is said when it is opened
    device = "cpu" if is_graph(path) else pick_device(device)
    beside = reference.path if reference and not reference.is_loaded else None
    require_memory(
        f"measuring {path.name}",
        measurement_bytes(path, options, device, beside),
        alternatives(path, options, device, beside),
        device,
    )


def _read_text(
    result: Measurement, source: Source, tokenizer: Any, options: EvaluateOptions
) -> list[Encoded]:
    """The rows of a text to score; the context gets their length and how many were skipped."""
    report = RowReport(options.bad_rows)
    rows = scoring_rows(tokenizer, source, options.seq_len, options.windows, report)
    result.note(report.notes(str(source)))
    why = f"{source} holds no more"
    what = f"rows of {source.label} to score"
    result.note(shortfall(len(rows), options.windows, what, why))
    result.context[f"windows/{source.label}"] = len(rows)
    if report.skipped:
        result.context[f"skipped_rows/{source.label}"] = report.skipped
    result.context[f"seq_len/{source.label}"] = options.seq_len
    return rows


def _add_text(
    result: Measurement,
    label: str,
    backend: Backend,
    rows: Sequence[Encoded],
    reference: Reference | None,
) -> None:
    """Add perplexity on a text, and the divergence from the reference."""
    text = score_text(backend, rows, reference.backend if reference else None)
    metrics = result.metrics
    metrics[f"perplexity/{label}"] = text.perplexity
    metrics[f"perplexity/{label}/stderr"] = text.stderr
    metrics[f"perplexity/{label}/n"] = text.tokens
    if text.kl is not None and text.top1_agreement is not None:
        metrics[f"kl/{label}"] = text.kl
        metrics[f"top1_agreement/{label}"] = text.top1_agreement
    result.samples[f"perplexity/{label}"] = window_samples(text.windows)
    result.context[f"data_hash/{label}"] = rows_hash(rows)
    if reference:
        result.context[f"reference/{label}"] = reference.identity


def _add_answers(
    result: Measurement, task: str, answers: Sequence[Answer], options: EvaluateOptions
) -> None:
    """Add the accuracy of a task."""
    count = len(answers)
    result.note(shortfall(count, options.limit, f"problems of {task}", "it holds no more"))
    result.note(cut_off_note(answers, task, options.max_new_tokens))
    share = sum(answer.correct for answer in answers) / count
    result.metrics |= {
        f"accuracy/{task}": share,
        f"accuracy/{task}/stderr": share_error(share, count),
        f"accuracy/{task}/n": count,
    }
    result.samples[f"accuracy/{task}"] = problem_samples([a.correct for a in answers])
    result.answers += [asdict(a) for a in answers]
    problems = [(answer.question, answer.expected) for answer in answers]
    result.context[f"problems/{task}"] = count
    result.context[f"problems_hash/{task}"] = problems_hash(problems)


def _cache_sizes(path: Path, options: LatencyOptions) -> dict[str, float]:
    """Bytes of the KV cache in fp16, or in 8 bits if an artifact has it so."""
    model = read_architecture(path)
    made = read_provenance(path) if is_artifact(path) else {}
    element = element_bytes(made.get("kv_cache", "float"), 2)
    return {
        f"kv_cache_bytes/{context}": model.state_bytes(context, element_bytes=element)
        for context in options.contexts
    }


def _environment(backend: Backend) -> dict[str, Any]:
    import onnxruntime  # late: slow to import
    import torch
    import transformers

    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnxruntime": onnxruntime.__version__,
        **(backend.versions if isinstance(backend, LlamaBackend) else {}),
    }
    return {
        "backend": backend.name,
        "device": backend.device,
        "dtype": backend.dtype,
        "threads": torch.get_num_threads(),
        **versions,
    }
