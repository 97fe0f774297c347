"""What `targets check` says of a model and what `export` does with it are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import FAMILIES
from family_table import SETTINGS
from known_models import violations

from edgewright.checkpoints.config import read_architecture
from edgewright.errors import Refused
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.models import FORMATS, expressible
from edgewright.steps.context import StepContext
from edgewright.targets import list_targets, load_target

ALL = sorted(FAMILIES | SETTINGS)
MakeModel = Callable[..., Path]
SMALLEST = "jetson-orin-nano-8gb"
"""The board whose rules format `edge-llm` is written for."""
GRAPHS = ("onnx", "ort", "tensorrt", "triton")
"""Formats of one graph, which other tests export for every family."""


def refused(source: Path, format: str, out: Path, context: StepContext) -> str:
    """What `export` says when it refuses, with its way out; empty: it writes the artifact."""
    try:
        export(ExportOptions(format=format, precision="fp16"), source, out, context)
    except Refused as error:
        return f"{error} -> {error.hint}"
    return ""


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", ALL)
def test_every_target_refuses_what_export_refuses_in_the_same_words(
    family: str, format: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family)
    model = read_architecture(source)
    reasons = expressible(model, format)
    for target in list_targets():
        found = violations(target, model, format=format, precision="fp16")
        said = [v for v in found if v.rule == "architecture"]
        assert [v.severity for v in said] == ["refuse"] * len(reasons)
        for violation, reason in zip(said, reasons, strict=True):
            assert reason.message in violation.message
            assert violation.nearest == reason.remedy
    if reasons:
        words = refused(source, format, tmp_path / "out", context)
        for reason in reasons:
            assert reason.message in words
            assert reason.remedy in words
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in GRAPHS])
@pytest.mark.parametrize("family", ALL)
def test_what_a_target_accepts_is_exported(
    family: str, format: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family, dtype="float16")
    board = load_target(SMALLEST)
    model = read_architecture(source)
    found = violations(board, model, format=format, precision="fp16")
    refusals = [violation for violation in found if violation.severity == "refuse"]
    words = refused(source, format, tmp_path / "out", context)
    assert bool(words) == bool(refusals), (words, refusals)
    for violation in refusals:
        assert violation.message.partition("here: ")[2] in words or violation.message in words
    assert (tmp_path / "out").is_dir() == (not words)
