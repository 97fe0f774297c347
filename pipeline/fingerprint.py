"""Fingerprints: the hash of everything that a result depends on.

A result is reused only if its fingerprint is the recorded one. It covers the options, the hashes of
the input models and data, seed, device, and the version of all code that was run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from .. import __version__
from ..checkpoints.sealed import digest
from ..data.sources import Source
from ..steps.context import StepContext
from ..steps.step import FOUNDATION, Step

__all__ = ["MEASURE_CODE", "code_version", "data_hashes", "fingerprint", "step_dependencies"]

ROOT = Path(__file__).parents[1]
MEASURE_CODE = (*FOUNDATION, "benchmarks", "export")
"""Packages whose code a measurement runs."""


@cache
def code_version(parts: tuple[str, ...], root: Path = ROOT) -> str:
    """A short hash of source files, so that a result of older code is not reused.

    Args:
        parts: packages (`compress/prune`) and modules (`compress/x.py`), relative to `root`.
        root: the directory of the edgewright package.
    """
    found = hashlib.sha256(__version__.encode())
    for part in parts:
        files = [root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py"))
        for file in files:
            found.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


def fingerprint(fields: Mapping[str, Any]) -> str:
    """The hash of everything that a result depends on."""
    return digest(fields)


def data_hashes(names: Iterable[str]) -> dict[str, str]:
    """The hash of every data source, by its name."""
    return {name: Source.parse(name).fingerprint() for name in sorted(set(names))}


def step_dependencies(
    step: Step[Any],
    options: Any,
    config: Mapping[str, Any],
    source: str,
    hash_of: Callable[[str], str],
    context: StepContext,
) -> dict[str, Any]:
    """Everything that the result of a step depends on, by field.

    Args:
        step: the step.
        options: its settled options.
        config: the options as they are recorded.
        source: name of the model that the step reads.
        hash_of: from the name of a model to the hash of its files.
        context: calibration data, seed and device.
    """
    inputs = step.inputs(options)
    return {
        "config": dict(config),
        "inputs": {name: hash_of(name) for name in sorted({source, *inputs.models})},
        "data": data_hashes({context.calibration.source, *inputs.data}),
        "calibration": context.calibration.identity(),
        "seed": context.seed,
        "device": context.device,
        "code": code_version(step.code(options)),
    }
