"""Runs an export: refuses what the format cannot hold, and calls the format's writer."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.config import read_architecture
from ..models import FORMATS, require_expressible
from ..models.export_format import load
from ..steps.context import StepContext, StepResult
from .options import ExportOptions

__all__ = ["export"]


def export(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write `source` as an artifact to `out`, and check that both compute the same.

    Raises:
        Refused: the format cannot hold the model, or the checkpoint has no such precision.
        ParityFailed: the artifact's logits differ from those of the checkpoint. Nothing is kept.
    """
    require_expressible(read_architecture(source), options.format, str(source))
    write = load(FORMATS[options.format].writer)
    return write(options, source, out, context)
