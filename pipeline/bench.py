"""Measures one model or artifact for the verb `bench`, and saves what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..benchmarks.latency.latency import time_against
from ..benchmarks.measure import Measurement, measure
from ..benchmarks.measurement_files import answers_file, save_measurement, write_answers
from ..benchmarks.missing_tasks import missing_tasks
from ..benchmarks.options import EvaluateOptions, LatencyOptions
from ..benchmarks.reference import Reference
from ..benchmarks.tasks.kept_answers import FILE, WORK, KeptAnswers
from ..benchmarks.unconfined import unconfined_tasks
from ..checkpoints.artifacts import is_artifact
from ..checkpoints.config import model_path, resolve
from ..checkpoints.hashing import content_hash
from ..errors import UsageError
from ..steps.workspace import workspace
from .measured import measurement_dependencies

__all__ = ["bench_path"]


def _directory(path: Path) -> Path:
    """The directory of an artifact, or of a model that may be named by its hub id."""
    return path if is_artifact(path) else resolve(model_path(str(path)))


def _rival(path: Path) -> Path:
    """The directory of the model to compare with.

    Raises:
        UsageError: there is none.
    """
    try:
        return _directory(path)
    except UsageError as error:
        raise UsageError(f"--against {error}", error.hint) from error


def _save(file: Path, found: Mapping[str, Any], answers: Sequence[dict[str, Any]]) -> None:
    """Write a measurement, and the answers beside it."""
    save_measurement(file, found)
    if answers:
        write_answers(answers_file(file), answers)


def _shown(name: str, result: Measurement) -> dict[str, Any]:
    """A measurement as `bench` prints and saves it."""
    said = [*missing_tasks(result.metrics), *unconfined_tasks([result.context])]
    return {
        "name": name,
        "metrics": result.metrics,
        "context": result.context,
        "samples": result.samples,
        "notes": [*result.notes, *said],
    }


def _against(
    path: Path, rival: Path, options: EvaluateOptions, result: Measurement
) -> dict[str, Any]:
    """The times of two models in turns, under the conditions of a measurement of the first."""
    where = result.context["device"]
    threads = result.context["threads"]
    latency = options.latency or LatencyOptions()
    return time_against(path, rival, latency, where, threads, options.llama_server)


@contextmanager
def _kept(
    path: Path, options: EvaluateOptions, device: str, save: Path | None
) -> Iterator[KeptAnswers | None]:
    """The answers of an interrupted measurement of the same into the same file, if it has tasks."""
    if not (save and options.tasks):
        yield None
        return
    fields = measurement_dependencies(options, content_hash(path), device)
    with workspace(save, WORK, fields, FILE) as place:
        yield KeptAnswers(place / FILE)


def bench_path(
    path: Path,
    options: EvaluateOptions,
    device: str,
    reference: Path | None,
    save: Path | None,
    against: Path | None = None,
    memory_check: bool = True,
) -> dict[str, Any]:
    """Measure the model at `path`, and save the result if a file is given.

    Answers to tasks are kept beside that file until it is there: if the measurement is interrupted,
    the same call does not ask for them again.

    Args:
        path: an artifact, or a model: its directory, hub id or built-in name.
        options: what to measure.
        device: where torch runs.
        reference: the model that KL and top-1 agreement compare with.
        save: the file.
        against: a model that is timed in turns with this one; see `against` in the result.
        memory_check: refuse what is predicted not to fit into memory.

    Raises:
        UsageError: nothing was asked for.
    """
    if not (options.tasks or options.perplexity or options.latency):
        raise UsageError(
            "nothing to measure", "give --perplexity SOURCE, --tasks NAME or --latency"
        )
    rival = _rival(against) if against else None
    name = path.name
    path = _directory(path)
    base = Reference(_directory(reference), device) if reference else None
    with _kept(path, options, device, save) as kept:
        result = measure(
            path, options, device=device, reference=base, kept=kept, memory_check=memory_check
        )
        found = _shown(name, result)
        if save:
            _save(save, found, result.answers)
    if against and rival:
        found["against"] = {"name": against.name, **_against(path, rival, options, result)}
    return found
