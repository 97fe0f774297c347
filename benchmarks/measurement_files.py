"""Measurements as files: the metrics, the context that makes them comparable, and the samples.

Everything that is read is validated here, before anybody compares it: figures must be possible
(`metrics.py` says what is), and samples must give the figure that they belong to. A baseline may be
written by hand; a file that edgewright wrote has a checksum. No torch here: a CI job that only
compares starts at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from ..checkpoints.atomic_files import write_text
from ..checkpoints.hashing import file_hash
from ..checkpoints.outputs import ANSWERS, LEDGER, beside
from ..checkpoints.sealed import CHECK, Damaged, intact, load_object, seal
from ..documents import read_json
from ..errors import UsageError
from .ledger_files import read_ledger
from .metrics import why_impossible
from .samples import (
    Scores,
    checked_number,
    problem_samples,
    problems_hash,
    read_scores,
    window_samples,
)

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
F = TypeVar("F", bound="_Figures")


class _Figures(BaseModel):
    """The parts that a measurement file and a ledger's entry share; both may have others."""

    model_config = ConfigDict(frozen=True)

    name: str
    metrics: dict[str, Annotated[int | float, BeforeValidator(checked_number)]]
    context: dict[str, Any]


class _File(_Figures):
    """A measurement file."""

    samples: dict[str, Any] | None = None


class _Step(_Figures):
    """A ledger's entry, whose samples are in a file of their own."""

    samples: str | None = None
    sample_files: dict[str, str] = {}


def load_measurement(where: str) -> dict[str, Any]:
    """A measurement from a file of `bench --save`, or of one step of a run (`RUN:STEP`).

    Raises:
        UsageError: no such file, run or step, or the file is no measurement.
    """
    file = Path(where)
    step = ""
    if not file.is_file():
        folder, _, step = where.rpartition(":")
        file = Path(folder) / LEDGER
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


def _not_a_measurement(file: Path, why: object) -> UsageError:
    return UsageError(f"{file}: not a measurement: {why}", HINT)


def _from_file(file: Path) -> dict[str, Any]:
    try:
        data = read_json(file, HINT)
    except UsageError as error:
        raise _not_a_measurement(file, str(error).removeprefix(f"{file}: ")) from error
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
    ledger = run / LEDGER
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
    if not path.is_file() and folder and (Path(folder) / LEDGER).is_file():
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
    return beside(path, ANSWERS)


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
