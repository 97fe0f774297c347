"""Targets: the memory and limits of a device, what it cannot run, and how fast a model will be."""

from __future__ import annotations

from ..models.footprint import PRECISIONS, size_of
from .artifact_plan import ArtifactSpec
from .drafts import DraftPrediction, draft_engines, predict_draft
from .estimator import Prediction, engine_of, engines, longest_context, predict
from .profile import Target, list_targets, load_target, target_names, usable_bytes
from .rules import check
from .violation import Violation
from .workload import Workload

__all__ = [
    "PRECISIONS",
    "ArtifactSpec",
    "DraftPrediction",
    "Prediction",
    "Target",
    "Violation",
    "Workload",
    "check",
    "draft_engines",
    "engine_of",
    "engines",
    "list_targets",
    "load_target",
    "longest_context",
    "predict",
    "predict_draft",
    "size_of",
    "target_names",
    "usable_bytes",
]
