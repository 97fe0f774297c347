"""Measurements as files: the metrics, the context that makes them comparable, and the samples.

Samples let the gate pair candidate and baseline. Those of `accuracy/<task>` are one digit per
problem, in the order of the problems: `{"correct": "1101"}`. Those of `perplexity/<data>` are two
numbers per window, in the order of the windows: `{"nll": [...], "tokens": [...]}`, the sum of the
losses in nats and the number of scored tokens. No torch here: a CI job that only compares starts at
once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.atomic_files import write_text
from ..errors import UsageError
from .bootstrap import Array

__all__ = [
    "Scores",
    "answers_file",
    "load_measurement",
    "problem_samples",
    "problems_hash",
    "read_scores",
    "replace_baseline",
    "step_measurement",
    "window_samples",
    "write_answers",
    "write_measurement",
]

HINT = "make one with `edgewright bench PATH --save FILE`, or name a step of a run: RUN:STEP"
MAX_MEAN_NLL = 700.0
"""Nats a token above which exp() overflows a float."""


@dataclass(frozen=True)
class Scores:
    """The samples of one metric, float64 [samples] each; its mean is sum(total) / sum(weight)."""

    total: Array
    weight: Array
    logarithmic: bool
    """The metric is exp(mean), as a perplexity is."""

    def value_of(self, mean: Array) -> Array:
        """The metric's value for each mean."""
        return np.exp(np.minimum(mean, MAX_MEAN_NLL)) if self.logarithmic else mean


def problem_samples(correct: Sequence[bool]) -> dict[str, Any]:
    """The samples of an accuracy: one digit per problem."""
    return {"correct": "".join("1" if one else "0" for one in correct)}


def window_samples(windows: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """The samples of a perplexity.

    Args:
        windows: sum of losses and number of scored tokens of each window. Seven digits of the sums
            are kept, as many as a float32 holds.
    """
    return {
        "nll": [float(f"{nll:.7g}") for nll, _ in windows],
        "tokens": [tokens for _, tokens in windows],
    }


def problems_hash(problems: Sequence[tuple[str, str]]) -> str:
    """A short hash of questions and expected answers: equal if two sides have the same ones."""
    return hashlib.sha256(json.dumps(problems).encode()).hexdigest()[:16]


def read_scores(measurement: Mapping[str, Any], metric: str) -> Scores | None:
    """The samples behind a metric; None if the measurement has none.

    Raises:
        UsageError: the samples are damaged, or do not give the metric's value.
    """
    kept = (measurement.get("samples") or {}).get(metric)
    if kept is None:
        return None
    where = f"`{measurement['name']}`: the samples of `{metric}`"
    try:
        scores = _parse_samples(kept)
        found = float(scores.value_of(scores.total.sum() / scores.weight.sum()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{where} are damaged: {error}", "measure it again with edgewright bench"
        ) from error
    value = measurement["metrics"][metric]
    if not math.isclose(found, value, rel_tol=1e-5, abs_tol=1e-9):
        raise UsageError(
            f"{where} give {found:.6g}, and the metric is {value:.6g}: one of them was altered",
            "measure it again with edgewright bench",
        )
    return scores


def _parse_samples(kept: Mapping[str, Any]) -> Scores:
    logarithmic = "nll" in kept
    if logarithmic:
        total, weight = (np.asarray(kept[key], dtype=np.float64) for key in ("nll", "tokens"))
        shaped = total.ndim == 1 and total.shape == weight.shape
        valid = shaped and np.isfinite(total).all() and (weight > 0).all()
    else:
        digits = np.frombuffer(kept["correct"].encode(), dtype=np.uint8)
        total = digits.astype(np.float64) - ord("0")
        weight = np.ones_like(total)
        valid = np.isin(total, (0, 1)).all()
    if not (total.size and valid):
        raise ValueError("not one number per sample")
    return Scores(total, weight, logarithmic)


def load_measurement(where: str) -> dict[str, Any]:
    """A measurement from a file of `bench --save`, or of one step of a run (`RUN:STEP`).

    Raises:
        UsageError: no such file, run or step, or the file is no measurement.
    """
    file = Path(where)
    step = ""
    if not file.is_file():
        folder, _, step = where.rpartition(":")
        file = Path(folder) / "ledger.json"
        if not folder or not file.is_file():
            raise UsageError(
                f"{where}: {_what_is_missing(where, folder)}, so neither a measurement file nor "
                "RUN:STEP",
                HINT,
            )
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if not step:
            return _measurement(data, data.get("samples") or {})
        found = next((one for one in data["steps"] if one["name"] == step), None)
        if found is None:
            names = ", ".join(one["name"] for one in data["steps"])
            raise UsageError(f"{file}: no step `{step}`", f"steps: {names}")
        return step_measurement(file.parent, found)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file}: not a measurement: {error}", HINT) from error


def _what_is_missing(where: str, folder: str) -> str:
    if where and Path(where).is_dir():
        return "a directory"
    return f"no such file, and no run in {folder}" if folder else "no such file"


def step_measurement(run: Path, step: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement of one step of a ledger, with its samples; older ledgers have no samples.

    Args:
        run: the directory of the run.
        step: the step's entry in the ledger, which names the file of its samples.

    Raises:
        JSONDecodeError: the samples are damaged.
    """
    file = run / step["samples"] if step.get("samples") else None
    samples = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
    return _measurement(step, samples)


def _measurement(found: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: found[key] for key in ("name", "metrics", "context")}, "samples": dict(samples)}


def replace_baseline(candidate: Mapping[str, Any], where: str) -> Path:
    """Make a candidate's measurement the baseline file, atomically, and return its path.

    Raises:
        UsageError: `where` is a step of a run, or a file that is no measurement.
        EdgewrightError: the file cannot be written.
    """
    path = Path(where)
    folder = where.rpartition(":")[0]
    if not path.is_file() and folder and (Path(folder) / "ledger.json").is_file():
        raise UsageError(
            f"{where}: a step of a run is no file to replace",
            "give --baseline FILE.json, and commit that file",
        )
    if path.exists():
        load_measurement(where)  # never overwrite a file that is not a measurement
    write_measurement(path, candidate)
    return path


def write_answers(path: Path, answers: Sequence[Mapping[str, Any]]) -> None:
    """Write what the model answered, one JSON object per line, for people to read.

    Raises:
        EdgewrightError: the file cannot be written.
    """
    write_text(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers))


def answers_file(path: Path) -> Path:
    """The file of the answers beside a measurement file: `int4.answers.jsonl` of `int4.json`."""
    return path.with_suffix(".answers.jsonl")


def write_measurement(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON, with one line per entry of its two outer levels.

    A changed metric is then one changed line in a diff.

    Raises:
        EdgewrightError: the file cannot be written.
    """
    entries: list[str] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in inner.items())
            entries.append(f"  {json.dumps(key)}: {{\n{lines}\n  }}")
        else:
            entries.append(f"  {json.dumps(key)}: {json.dumps(inner)}")
    write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")
