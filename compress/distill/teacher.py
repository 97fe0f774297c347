"""The teacher of a distillation: a model in memory, or a cache of its logits on disk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.hashing import content_hash
from ...checkpoints.loading import load_model
from ...checkpoints.locks import locked
from .checks import SharedVocabulary
from .options import DistillOptions
from .teacher_cache import CachedTeacher
from .teacher_logits import OnlineTeacher, TeacherLogits
from .training_rows import StageRows
from .training_setup import TrainingSetup

__all__ = ["Teacher", "load_teacher"]


@dataclass(frozen=True)
class Teacher:
    """What stages need of a teacher; both are None without one."""

    model: Any | None = None
    """The frozen model, if it must stay in memory."""
    logits: TeacherLogits | None = None


def load_teacher(folder: Path | None, shared: SharedVocabulary, setup: TrainingSetup) -> Teacher:
    """Load the teacher, or add the rows that its cache lacks.

    With a cache, the teacher leaves memory before any student is loaded.

    Args:
        folder: the teacher's checkpoint; None: train without a teacher.
        shared: vocabulary of teacher and student.
        setup: of the distillation.
    """
    if folder is None:
        return Teacher()
    options = setup.options
    if options.teacher_cache is None:
        model = load_model(folder, setup.device).requires_grad_(False)
        return Teacher(model, OnlineTeacher(model, shared.size))
    setup.processes.on_main(lambda: _fill_cache(folder, shared, setup))
    return Teacher(logits=_cache(options, folder, shared.size))


def _cache(
    options: DistillOptions, folder: Path, vocab: int, *, repair: bool = False
) -> CachedTeacher:
    assert options.teacher_cache is not None
    temperatures = [stage.temperature for stage in options.stages if stage.loss == "logits"]
    teacher = content_hash(folder)
    return CachedTeacher(options.teacher_cache, teacher, vocab, temperatures, repair=repair)


def _fill_cache(folder: Path, shared: SharedVocabulary, setup: TrainingSetup) -> None:
    """Run the teacher on the rows of all logits stages that its cache lacks."""
    if not _missing_rows(folder, shared, setup)[1]:
        return
    assert setup.options.teacher_cache is not None
    with locked(Path(setup.options.teacher_cache.path), wait=True):
        cache, missing = _missing_rows(folder, shared, setup)  # another command may have added them
        if missing:
            teacher = load_model(folder, setup.device).requires_grad_(False)
            cache.fill(teacher, missing, setup.options.batch_size)


def _missing_rows(
    folder: Path, shared: SharedVocabulary, setup: TrainingSetup
) -> tuple[CachedTeacher, list[Tensor]]:
    """Return the cache, and the rows int64 [2, seq] that it lacks."""
    options = setup.options
    cache = _cache(options, folder, shared.size, repair=True)
    rows = StageRows(options, shared.tokenizer, setup.context.seed)
    # The rows of other stages are skipped, because stages of the same data share one stream.
    streams = (
        (stage, chain(rows.of(stage), rows.held_out(stage) if stage.early_stop else ()))
        for stage in options.stages
    )
    needed = (row for stage, stream in streams for row in stream if stage.loss == "logits")
    return cache, list(cache.missing(needed))
