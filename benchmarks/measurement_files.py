"""Measurements as files: metrics, what makes them comparable, and the samples that both sides of a comparison share.

The samples of `accuracy/<task>` are a digit a problem in the order of the problems (`{"correct": "1101"}`), those of
`perplexity/<data>` two numbers a window in the order of the windows (`{"nll": [...], "tokens": [...]}`, nats and scored
tokens). No torch here: a CI job that only compares should start at once.
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
from .statistics import Array

__all__ = [
    "Scores",
    "comparable",
    "load_measurement",
    "problem_samples",
    "problems_hash",
    "read_scores",
    "replace_baseline",
    "step_measurement",
    "window_samples",
    "write_lines",
    "write_text",
]

HINT = "make one with `edgewright bench PATH --save FILE`"
LONGEST_NLL = 700.0
"""Nats a token past which a perplexity is no float any more."""


@dataclass(frozen=True)
class Scores:
    """The samples of one metric: its mean is the sum of `total` over the sum of `weight`, both float64 [samples]."""

    total: Array
    weight: Array
    logarithmic: bool
    """The metric is exp(mean), as a perplexity is."""

    def figure(self, mean: Array) -> Array:
        """The metric of each mean."""
        return np.exp(np.minimum(mean, LONGEST_NLL)) if self.logarithmic else mean


def problem_samples(correct: Sequence[bool]) -> dict[str, Any]:
    """What is kept of the answers to a task."""
    return {"correct": "".join("1" if one else "0" for one in correct)}


def window_samples(windows: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """What is kept of the windows of a text, (sum of losses, scored tokens) each; 7 digits are what float32 sums hold."""
    return {
        "nll": [float(f"{nll:.7g}") for nll, _ in windows],
        "tokens": [tokens for _, tokens in windows],
    }


def problems_hash(problems: Sequence[tuple[str, str]]) -> str:
    """A short hash of questions and answers, so that only like is paired with like."""
    return hashlib.sha256(json.dumps(problems).encode()).hexdigest()[:16]


def read_scores(measurement: Mapping[str, Any], metric: str) -> Scores | None:
    """The samples behind a metric, if they were kept.

    Raises:
        UsageError: they are damaged, or give another figure than the metric.
    """
    kept = (measurement.get("samples") or {}).get(metric)
    if kept is None:
        return None
    where = f"`{measurement['name']}`: the samples of `{metric}`"
    try:
        scores = _scores(kept)
        found = float(scores.figure(scores.total.sum() / scores.weight.sum()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(
            f"{where} are damaged: {error}", "measure it again with edgewright bench"
        ) from error
    if not math.isclose(found, measurement["metrics"][metric], rel_tol=1e-5, abs_tol=1e-9):
        raise UsageError(
            f"{where} give {found:.6g}, and the metric is {measurement['metrics'][metric]:.6g}: one of them was altered",
            "measure it again with edgewright bench",
        )
    return scores


def _scores(kept: Mapping[str, Any]) -> Scores:
    logarithmic = "nll" in kept
    if logarithmic:
        total, weight = (np.asarray(kept[key], dtype=np.float64) for key in ("nll", "tokens"))
        sound = (
            total.ndim == 1
            and total.shape == weight.shape
            and np.isfinite(total).all()
            and (weight > 0).all()
        )
    else:
        total = np.frombuffer(kept["correct"].encode(), dtype=np.uint8).astype(np.float64) - ord(
            "0"
        )
        weight = np.ones_like(total)
        sound = np.isin(total, (0, 1)).all()
    if not (total.size and sound):
        raise ValueError("not one figure a sample")
    return Scores(total, weight, logarithmic)


def comparable(a: Mapping[str, Any], b: Mapping[str, Any], metric: str) -> str:
    """Why a metric of two contexts must not be compared, or the empty string when it may.

    Raises:
        UsageError: a context is missing, as in a file not written by edgewright.
    """
    if not a or not b:
        raise UsageError(
            "a measurement without its context cannot be compared",
            "measure both sides with edgewright bench",
        )
    kind, _, label = metric.partition("/")
    keys = {
        "perplexity": [f"data_hash/{label}", f"seq_len/{label}"],
        "kl": [f"data_hash/{label}"],
        "top1_agreement": [f"data_hash/{label}"],
        "accuracy": [f"problems/{label}", f"shots/{label}"],
        "ttft_ms": ["device", "threads", "latency"],
        "decode_tok_s": ["device", "threads", "latency"],
        "prefill_tok_s": ["device", "threads", "latency"],
        "peak_rss_bytes": ["device", "latency"],
    }.get(kind, [])
    same_problems = f"problems_hash/{label}"
    if (
        kind == "accuracy" and same_problems in a and same_problems in b
    ):  # older measurements have their number only
        keys = [*keys, same_problems]
    for key in keys:
        if a.get(key) != b.get(key):
            return f"{key} differs ({a.get(key)} against {b.get(key)})"
    return ""


def load_measurement(where: str) -> dict[str, Any]:
    """A measurement from a file that `bench --save` wrote, or of one step of a run (`RUN:STEP`).

    Raises:
        UsageError: no such file, run or step.
    """
    file, step = Path(where), ""
    if not file.is_file():
        folder, _, step = where.rpartition(":")
        file = Path(folder) / "ledger.json"
        if not folder or not file.is_file():
            raise UsageError(f"{where}: neither a measurement file nor RUN:STEP", HINT)
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = data if not step else next((s for s in data["steps"] if s["name"] == step), None)
        if found is None:
            raise UsageError(
                f"{file}: no step `{step}`", f"steps: {', '.join(s['name'] for s in data['steps'])}"
            )
        return (
            step_measurement(file.parent, found)
            if step
            else _measurement(found, found.get("samples") or {})
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file}: not a measurement: {error}", HINT) from error


def step_measurement(run: Path, step: Mapping[str, Any]) -> dict[str, Any]:
    """The measurement of a ledger's step, with the samples in the file that it names; ledgers of older runs name none.

    Raises:
        JSONDecodeError: the samples are damaged.
    """
    file = run / step["samples"] if step.get("samples") else None
    return _measurement(
        step, json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}
    )


def _measurement(found: Mapping[str, Any], samples: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: found[key] for key in ("name", "metrics", "context")}, "samples": dict(samples)}


def replace_baseline(candidate: Mapping[str, Any], where: str) -> Path:
    """Make a candidate's measurement the baseline file, whole or not at all, and return its path.

    Raises:
        UsageError: `where` is a step of a run, or a file that is no measurement.
        EdgewrightError: it cannot be written.
    """
    path = Path(where)
    folder = where.rpartition(":")[0]
    if not path.is_file() and folder and (Path(folder) / "ledger.json").is_file():
        raise UsageError(
            f"{where}: a step of a run is no file to replace",
            "give --baseline FILE.json, and commit that file",
        )
    if path.exists():
        load_measurement(where)  # whatever else stands there is not ours to overwrite
    write_lines(path, candidate)
    return path


def write_lines(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as JSON with a line for each entry of its two outer levels: a changed metric is one changed line.

    Raises:
        EdgewrightError: it cannot be written.
    """
    entries: list[str] = []
    for key, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines = ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in inner.items())
            entries.append(f"  {json.dumps(key)}: {{\n{lines}\n  }}")
        else:
            entries.append(f"  {json.dumps(key)}: {json.dumps(inner)}")
    write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")
