"""Measures the result of a step and writes the metrics into the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.ledger_files import changed_samples
from ..benchmarks.measure import measure
from ..benchmarks.measurement_files import write_answers, write_measurement
from ..benchmarks.metric_cells import headline
from ..benchmarks.options import EvaluateOptions
from ..benchmarks.reference import Reference
from ..benchmarks.report.model_card import write_card
from ..benchmarks.tasks.kept_answers import FILE, WORK, KeptAnswers
from ..benchmarks.tasks.task import Task
from ..benchmarks.without_logits import measured_without_logits
from ..checkpoints.artifacts import is_gguf
from ..checkpoints.hashing import file_hash
from ..console import console
from ..steps.workspace import workspace
from .fingerprint import MEASURE_CODE, code_version, data_hashes, fingerprint
from .ledger import Ledger
from .recipe import BASELINE, Recipe
from .registry import STEPS
from .run_files import SAMPLES

__all__ = ["StepMeasurer", "measurement_dependencies", "write_samples"]


@dataclass(frozen=True)
class StepMeasurer:
    """Measures steps of a recipe as its `evaluate` says, each against the baseline."""

    recipe: Recipe
    ledger: Ledger
    order: list[str]
    """Names of the steps."""
    device: str
    baseline: Path
    """Directory of the uncompressed model."""
    baseline_hash: str
    reference: Reference
    """The uncompressed model, loaded when it is first needed."""

    def measure(self, entry: dict[str, Any], folder: Path, output_hash: str) -> None:
        """Measure what `folder` holds and record it in `entry`, or reuse a valid measurement.

        Args:
            entry: the step's entry in the ledger.
            folder: directory of its result.
            output_hash: hash of the files in it.
        """
        fields = measurement_dependencies(
            self.recipe.evaluate, output_hash, self.device, self.baseline_hash
        )
        if not self._is_measured(entry, fields):
            if why := self.ledger.altered.pop(entry["name"], ""):
                console.print(f"  {why}", highlight=False, markup=False)
            run = self.ledger.path.parent
            with workspace(samples_file(run, entry["name"]), WORK, fields, FILE) as place:
                evaluate, left_out = self._possible(folder)
                result = measure(
                    folder,
                    evaluate,
                    device=self.device,
                    reference=None if entry["name"] == BASELINE else self.reference,
                    kept=KeptAnswers(place / FILE),
                    memory_check=self.recipe.memory_check,
                )
                result.note(left_out)
                entry["metrics"] = result.metrics
                entry["context"] = result.context
                entry["measurement_notes"] = result.notes
                entry["measured"] = fingerprint(fields)
                entry |= write_samples(run, entry["name"], result.samples, result.answers)
                self.ledger.put(entry, self.order)
        console.print(f"  {headline(entry['metrics'])}", highlight=False, soft_wrap=True)
        self._write_card(entry, folder)

    def _possible(self, folder: Path) -> tuple[EvaluateOptions, list[str]]:
        """What can be measured of a result, and notes of what cannot."""
        if is_gguf(folder):
            return measured_without_logits(self.recipe.evaluate)
        return self.recipe.evaluate, []

    def _is_measured(self, entry: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
        if not entry["metrics"] or entry.get("measured") != fingerprint(fields):
            return False
        changed = changed_samples(self.ledger.path.parent, entry)
        if changed:
            console.print(
                f"  measured again: {changed} was altered or removed since", highlight=False
            )
        return not changed

    def _write_card(self, entry: Mapping[str, Any], folder: Path) -> None:
        """Write a model card beside the result; the uncompressed model keeps its own."""
        if entry["name"] != BASELINE:
            command = self.ledger.data["command"]
            uncompressed = self.ledger.step(BASELINE)
            write_card(
                folder,
                entry,
                STEPS[entry["kind"]],
                self.recipe.model,
                self.baseline,
                command,
                uncompressed,
            )


def measurement_dependencies(
    options: EvaluateOptions, output: str, device: str, baseline: str = ""
) -> dict[str, Any]:
    """Everything that a measurement depends on, by field.

    Args:
        options: what is measured.
        output: the hash of the measured model's files.
        device: where torch runs.
        baseline: the hash of the model that it is compared with, if there is one.
    """
    return {
        "evaluate": options.model_dump(mode="json"),
        "data": data_hashes(options.perplexity),
        "tasks": {name: Task.parse(name).fingerprint() for name in options.tasks},
        "baseline": baseline,
        "output": output,
        "device": device,
        "code": code_version(MEASURE_CODE),
    }


def samples_file(run: Path, name: str) -> Path:
    """The file of the samples of a ledger's entry."""
    return run / SAMPLES / f"{name}.json"


def write_samples(
    run: Path, name: str, samples: Mapping[str, Any], answers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write answers (for people) and samples (for the gate) beside a ledger.

    Args:
        run: the directory of the ledger.
        name: of the entry that they belong to.
        samples: by metric.
        answers: to the problems of tasks.

    Returns:
        `samples`, the path of the samples relative to the run's directory, and `sample_files`,
        the hash of each file by its path.
    """
    made = [samples_file(run, name)]
    made[0].parent.mkdir(exist_ok=True)
    write_measurement(made[0], samples)
    if answers:
        made.append(made[0].with_suffix(".jsonl"))
        write_answers(made[-1], answers)
    hashes = {f"{SAMPLES}/{file.name}": file_hash(file) for file in made}
    return {"samples": f"{SAMPLES}/{name}.json", "sample_files": hashes}
