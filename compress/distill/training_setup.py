"""What all parts of one distillation share: options, device, processes and saves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...steps.context import StepContext
from .options import DistillOptions
from .processes import Processes
from .training_state import Saves

__all__ = ["TrainingSetup"]


@dataclass(frozen=True)
class TrainingSetup:
    """Options, device, processes and saves of one distillation."""

    options: DistillOptions
    context: StepContext
    device: str
    processes: Processes
    saves: Saves
    curves: Path
    """Folder for a tracker's curves."""
