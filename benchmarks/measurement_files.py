"""Measurements as files: the metrics, the context that makes them comparable, and the samples.

Samples let the gate pair candidate and baseline. Those of `accuracy/<task>` are one digit per
problem, in the order of the problems: `{"correct": "1101"}`. Those of `perplexity/<data>` are two
numbers per window, in the order of the windows: `{"nll": [...], "tokens": [...]}`, the sum of the
losses in nats and the number of scored tokens.

Everything that is read is validated here, before anybody compares it: figures must be possible
(`metrics.py` says what is), and samples must give the figure that they belong to. A baseline may be
written by hand; a file that edgewright wrote has a checksum. No torch here: a CI job that only
compares starts at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ..checkpoints.atomic_files import write_text
from ..checkpoints.hashing import file_hash
from ..checkpoints.sealed import CHECK, Damaged, intact, load_json, load_object, seal
from ..errors import UsageError
from .bootstrap import Array
from .ledger_files import read_ledger
from .metrics import why_impossible

__all__ = [
    "Scores",
    "answers_file",
    "load_measurement",
    "problem_samples",
    "problems_hash",
    "read_scores",
    "replace_baseline",
    "save_measurement",
    "step_measurement",
    "window_samples",
    "write_answers",
    "write_measurement",
]

HINT = "make one with `edgewright bench PATH --save FILE`, or name a step of a run: RUN:STEP"
F = TypeVar("F", bound="_File")
MAX_MEAN_NLL = 700.0
"""Nats a token above which exp() overflows a float."""




def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r:.40} is not a number")
    return value


class _File(BaseModel):
    """The parts of a measurement that are used; a file may have others."""

    model_config = ConfigDict(frozen=True)

    name: str
    metrics: dict[str, Annotated[int | float, BeforeValidator(_number)]]
    context: dict[str, Any]
    samples: dict[str, Any] | None = None


class _Step(_File):
    """The same parts of a ledger's entry, whose samples are in a file of their own."""

    samples: str | None = None
    sample_files: dict[str, str] = {}


@dataclass(frozen=True)
class Scores:
    """The samples of one metric, float64 [samples] each; its mean is sum(total) / sum(weight)."""

    total: Array
    weight: Array
    logarithmic: bool
    """The metric is exp(mean), as a perplexity is."""

    @property
    def count(self) -> int:
        """What the metric's `/n` counts: problems, or scored tokens."""
        return int(self.weight.sum())

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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
        total, weight = (_numbers(kept[key]) for key in ("nll", "tokens"))
        valid = total.shape == weight.shape and np.isfinite(total).all()
        valid = valid and (total >= 0).all() and (weight >= 1).all() and (weight % 1 == 0).all()
    else:
        digits = np.frombuffer(kept["correct"].encode(), dtype=np.uint8)
        total = digits.astype(np.float64) - ord("0")
        weight = np.ones_like(total)
        valid = np.isin(total, (0, 1)).all()
    if not (total.size and valid):
        raise ValueError("not one number per sample")
    return Scores(total, weight, logarithmic)


def _numbers(values: Any) -> Array:
    """A list of numbers as float64; numpy would also take strings and truth values."""
    if not isinstance(values, list):
        raise TypeError("not a list of numbers")
    return np.asarray([_number(value) for value in values], dtype=np.float64)


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
    if not step:
        return _from_file(file)
    steps = [one for one in read_ledger(file)["steps"] if isinstance(one, dict)]
    found = next((one for one in steps if one.get("name") == step), None)
    if found is None:
        names = ", ".join(str(one.get("name")) for one in steps)
        raise UsageError(f"{file}: no step `{step}`", f"steps: {names}")
    return step_measurement(file.parent, found)


def _not_a_measurement(file: Path, why: object, hint: str = HINT) -> UsageError:
    return UsageError(f"{file}: not a measurement: {why}", hint)


def _from_file(file: Path) -> dict[str, Any]:
    data = load_json(file, HINT, _not_a_measurement)
    if isinstance(data, dict) and CHECK in data and not intact(data):
        raise UsageError(
            f"{file}: changed after edgewright wrote it: its `{CHECK}` is not that of its content",
            f"measure it again; or, if the change was meant, take its `{CHECK}` out",
        )
    found = _parsed(_File, data, file)
    return _possible({**found.model_dump(), "samples": dict(found.samples or {})}, file)


def _parsed(model: type[F], data: Any, file: Path) -> F:
    """The data as an object of `_File` or `_Step`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise _not_a_measurement(file, f"{where}: {why}" if where else why) from error


def _possible(measurement: dict[str, Any], file: Path) -> dict[str, Any]:
    """The measurement, if every figure in it can have been measured, and is that of its samples."""
    for name, value in measurement["metrics"].items():
        if why := why_impossible(name, value):
            raise UsageError(f"{file}: `{name}` is {value!s:.40}: {why}", f"correct it; or {HINT}")
    for name in measurement["samples"]:
        if name not in measurement["metrics"]:
            continue
        scores = read_scores(measurement, name)
        count = measurement["metrics"].get(f"{name}/n")
        if scores is not None and count is not None and count != scores.count:
            raise UsageError(
                f"{file}: `{name}/n` is {count}, and there are {scores.count} samples",
                "measure it again with edgewright bench",
            )
    return measurement


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
        UsageError: a figure is impossible, or the samples are damaged or are those of another one.
    """
    ledger = run / "ledger.json"
    found = _parsed(_Step, step, ledger)
    measurement = found.model_dump(exclude={"sample_files"}) | {"samples": {}}
    if found.samples:
        file = run / found.samples
        if not file.resolve().is_relative_to(run.resolve()):
            raise _not_a_measurement(ledger, f"its samples are outside of the run: {file}")
        if file.exists():
            measurement["samples"] = _samples(file, found.sample_files.get(found.samples))
    return _possible(measurement, ledger)


def _samples(file: Path, recorded: str | None) -> dict[str, Any]:
    """The samples of a step, by metric; `recorded` is the hash of the file if there is one."""
    hint = "run the recipe again: it measures this step again"
    samples = load_object(file, hint)
    if recorded and file_hash(file) != recorded:
        raise Damaged(file, "it was changed after edgewright wrote it", hint)
    return samples


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
    save_measurement(path, candidate)
    return path


def save_measurement(path: Path, measurement: Mapping[str, Any]) -> None:
    """Write a measurement with its checksum.

    Raises:
        EdgewrightError: the file cannot be written.
    """
    write_measurement(path, seal(measurement))


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
