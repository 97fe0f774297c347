"""Fingerprints: the version of the code covers everything that a step runs."""

from __future__ import annotations

import ast
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from edgewright.docs.import_graph import all_imports
from edgewright.models import FORMATS
from edgewright.pipeline import fingerprint as module
from edgewright.pipeline.defaults import with_training_data
from edgewright.pipeline.fingerprint import (
    MEASURE_CODE,
    code_version,
    fingerprint,
    step_dependencies,
)
from edgewright.pipeline.registry import STEPS
from edgewright.steps.context import StepContext

ROOT = Path(__file__).parents[2]
MESSAGES = {"errors.py", "console.py", "redaction.py", "__init__.py"}
"""Modules that have no say in a result; the version of edgewright is part of every code version."""


def writer_of(format: str) -> str:
    """The file of the writer that the declaration of a format names."""
    module, _ = FORMATS[format].writer.removeprefix("edgewright.").split(":")
    return f"{module.replace('.', '/')}.py"


OPTIONS: list[tuple[str, dict[str, Any], list[str]]] = [
    ("prune", {"heads": 0.25}, ["compress/prune/step.py"]),
    ("distill", {}, ["compress/distill/step.py"]),
    ("iterate", {"prune": {"ffn": 0.5}}, ["compress/iterate/step.py"]),
    ("quantize", {}, ["compress/quantize/step.py"]),
    *(("export", {"format": name}, ["export/step.py", writer_of(name)]) for name in FORMATS),
]
"""Kind, options, and the modules that the imports are followed from."""


@cache
def imports_by_module() -> dict[str, frozenset[str]]:
    """Module -> the modules that it imports, also late."""
    found: dict[str, set[str]] = {}
    for entry in all_imports():
        found.setdefault(entry.source, set()).add(entry.target)
    return {module: frozenset(targets) for module, targets in found.items()}


def imported(file: str) -> frozenset[str]:
    """The files of this package that a file imports, with the packages they are in."""
    module = file.removesuffix(".py").replace("/", ".")
    targets = [Path(t.replace(".", "/") + ".py") for t in imports_by_module().get(module, ())]
    packages = [parent / "__init__.py" for target in targets for parent in target.parents]
    return frozenset(str(path) for path in [*targets, *packages])


def closure(roots: list[str]) -> set[str]:
    """All files of this package that run when the roots do."""
    found = set(roots)
    waiting = list(roots)
    while waiting:
        new = imported(waiting.pop()) - found
        found |= new
        waiting += new
    return found


def covers(part: str, file: str) -> bool:
    """Whether a part of `code` includes a file."""
    return file == part or file.startswith(f"{part}/")


def step_of(kind: str, options: dict[str, Any]) -> tuple[Any, Any]:
    step = STEPS[kind]
    return step, step.Options.model_validate(options)


def test_imports_are_followed() -> None:
    found = closure(["compress/prune/step.py"])
    assert {"compress/prune/runner.py", "compress/prune/cut.py", "models/__init__.py"} <= found
    assert "compress/calibration/hessian.py" in found
    assert {p.parts[0] for p in map(Path, found)} - MESSAGES == {
        "checkpoints",
        "compress",
        "data",
        "documents.py",
        "generation",
        "models",
        "steps",
    }


@pytest.mark.parametrize(("kind", "options", "roots"), OPTIONS)
def test_the_code_of_a_step_is_what_it_imports(
    kind: str, options: dict[str, Any], roots: list[str]
) -> None:
    step, settled = step_of(kind, options)
    parts = step.code(settled)
    files = closure(roots) - MESSAGES
    empty = {"compress/__init__.py"}  # a package around the parts, without code: see below
    forgotten = {f for f in files if not any(covers(part, f) for part in parts)} - empty
    assert not forgotten
    needless = {part for part in parts if not any(covers(part, f) for f in files)}
    assert not needless
    only = ast.parse((ROOT / "compress" / "__init__.py").read_text()).body
    assert [type(node) for node in only] == [ast.Expr], "a docstring and no code"


def test_every_step_is_checked() -> None:
    """The registry imports nothing but steps and what they are made of: all are roots above."""
    assert {kind for kind, _, _ in OPTIONS} == set(STEPS)
    direct = imported("pipeline/registry.py") - MESSAGES
    modules = {f for f in direct if not f.endswith("__init__.py")}
    assert modules == {roots[0] for _, _, roots in OPTIONS} | {"steps/step.py"}


def test_the_code_of_a_measurement_is_what_it_imports() -> None:
    files = closure(["benchmarks/measure.py", "benchmarks/traces/traces.py"]) - MESSAGES
    assert not {f for f in files if not any(covers(part, f) for part in MEASURE_CODE)}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package's sources."""
    skip = shutil.ignore_patterns(".*", "tests", "runs", "build", "dist", "demo", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=skip))


@pytest.mark.parametrize(
    ("kind", "options", "file", "changes"),
    [
        ("export", {"format": "edge-llm"}, "targets/edge_llm.py", True),
        ("export", {"format": "edge-llm"}, "targets/profile.py", True),
        ("export", {}, "targets/edge_llm.py", False),
        ("export", {}, "export/onnx/builder.py", True),
        ("prune", {"ffn": 0.5}, "compress/prune/cut.py", True),
        ("prune", {"ffn": 0.5}, "compress/distill/trainer.py", False),
        ("distill", {}, "compress/prune/cut.py", True),
        ("iterate", {"prune": {"ffn": 0.5}}, "compress/distill/trainer.py", True),
        ("quantize", {}, "checkpoints/layouts/gptq.py", True),
    ],
)
def test_a_changed_byte_of_code_changes_the_fingerprint(
    kind: str,
    options: dict[str, Any],
    file: str,
    changes: bool,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, named = step_of(kind, options)
    settled = with_training_data(step, named, ROOT / "demo" / "model", kind)

    def current() -> str:
        code_version.cache_clear()
        monkeypatch.setattr(module, "code_version", lambda parts: code_version(parts, copy))
        context = StepContext(device="cpu")
        config = settled.model_dump(mode="json", by_alias=True)
        fields = step_dependencies(step, settled, config, "model", str, context)
        return fingerprint(fields)

    before = current()
    with (copy / file).open("a") as handle:
        handle.write("#")
    assert (current() != before) == changes
    code_version.cache_clear()
