"""The distill step: train a student on a teacher, on the data, or on both, and write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.compute_dtype import uses_bf16
from ...checkpoints.config import read_architecture, read_config
from ...checkpoints.directories import scratch_directory
from ...checkpoints.hashing import content_hash
from ...checkpoints.loading import pick_device
from ...checkpoints.tensors import stored_dtype
from ...checkpoints.writer import write_checkpoint
from ...models import Architecture
from ...steps.context import StepContext, StepResult
from ...steps.workspace import workspace
from .attention import summarize_maps
from .checks import SharedVocabulary, check_sharded, shared_vocabulary
from .options import LAST_GOOD, DistillOptions
from .prepared_objective import NotFinite
from .processes import Processes
from .qat import quantization_block, replace_packed
from .stages import summarize_stages, train_stages
from .student import Student, check_trainable, find_student, load_student, trainable_weights
from .teacher import Teacher, load_teacher
from .teacher_cache import CachedTeacher
from .tracking import check_tracker
from .training_setup import TrainingSetup
from .training_state import FINISHED, Saves

__all__ = ["distill"]


def distill(options: DistillOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Train a student, on a teacher or on the data alone, and write it to `out`.

    With several processes, all of them call this with the same arguments; the main one writes.

    Raises:
        Refused: the tokenizers differ, the student is larger than its teacher, the weights do not
            fit the grid, or adapters were asked for on a sparse student.
        UsageError: an input is broken, the data is too small, a matrix to adapt is unknown, or a
            teacher cache is another teacher's.
        EdgewrightError: a tracker's package is missing, the loss stopped being finite (the student
            of the last save is kept), the memory ran out, or another process ended.
    """
    check_tracker(options.tracker)
    device = pick_device(context.device)
    processes = Processes(device)
    depends_on = {**context.depends_on, "processes": processes.count} if context.depends_on else {}
    place = out.with_name(f".{out.name}.learning")
    pruned = out.with_name(f".{out.name}.student")
    with (
        processes.report_lost_process(),
        processes.context_on_main(
            lambda: workspace(out, "learning", depends_on, FINISHED, context.fresh), place
        ),
        processes.context_on_main(lambda: scratch_directory(pruned), pruned) as made,
    ):
        saves = Saves(place if depends_on else None, options.save_every, processes)
        curves = out.with_name(f"{out.name}.{options.tracker}")
        setup = TrainingSetup(options, context, device, processes, saves, curves)
        return _distill(setup, source, out, made)


def _distill(setup: TrainingSetup, source: Path, out: Path, made: Path) -> StepResult:
    """Load student and teacher, train, and write; `made` is an empty directory for a cut."""
    options = setup.options
    context = setup.context
    teacher_dir = context.resolve(options.teacher) if options.teacher else None
    found = find_student(setup, source, made)
    notes = list(found.notes)
    architecture = check_trainable(found.folder, options, teacher_dir)
    shared = (
        shared_vocabulary(teacher_dir, found.folder)
        if teacher_dir
        else SharedVocabulary(0, found.folder, [])
    )
    torch.manual_seed(context.seed)
    teacher = load_teacher(teacher_dir, shared, setup)
    student = load_student(found.folder, architecture, setup)
    sparse = student.restore_zeros is not None
    check_sharded(options, sparse=sparse, sharded=setup.processes.sharded)
    notes += _map_memory(setup, teacher_dir, architecture)
    student.fake_quantize(setup)
    provenance = {
        **found.provenance,
        "kind": "checkpoint",
        "step": "distill",
        "teacher": content_hash(teacher_dir) if teacher_dir else None,
        "options": options.model_dump(),
    }
    if sparse:
        provenance["sparsity"] = "2:4"
    failed = _train(setup, student, teacher, shared, notes)
    provenance["steps"] = {name: len(curve) for name, curve in setup.saves.losses.items()}
    provenance["bf16"] = uses_bf16(options.bf16, setup.device)
    state, config = _written(setup, student, teacher, shared, notes)
    good = out if failed is None else out.with_name(f"{out.name}.{LAST_GOOD}")
    setup.processes.on_main(
        lambda: write_checkpoint(
            good, state, config, shared.tokenizer, provenance, wrapper=found.folder
        )
    )
    if failed:
        raise NotFinite(
            f"{failed}; {setup.saves.summary()}, and the student of that step is in {good}",
            failed.hint,
        ) from failed
    held_out = setup.saves.held_out
    notes += [*summarize_stages(options, setup.saves), *shared.notes]
    return StepResult(
        notes, {"loss": setup.saves.losses} | ({"held_out": held_out} if held_out else {})
    )


def _map_memory(setup: TrainingSetup, teacher: Path | None, student: Architecture) -> list[str]:
    """Return a note about the memory of attention maps, if a stage aligns them."""
    options = setup.options
    if teacher is None or not any(stage.attention for stage in options.stages):
        return []
    rows = options.batch_size // (setup.processes.count * options.accumulate)
    return [
        summarize_maps(read_architecture(teacher), student, rows, options.seq_len, setup.device)
    ]


def _train(
    setup: TrainingSetup,
    student: Student,
    teacher: Teacher,
    shared: SharedVocabulary,
    notes: list[str],
) -> NotFinite | None:
    """Run the stages; return the error if a student with finite weights is left to write.

    Raises:
        NotFinite: the loss is not finite, and nothing was saved before.
    """
    with trainable_weights(student, setup.options.lora, notes):
        try:
            notes += train_stages(setup, student, teacher, shared)
        except NotFinite as error:
            if not setup.saves.has_whole_weights:
                raise NotFinite(f"{error}; {setup.saves.summary()}", error.hint) from error
            return error  # the student has its last saved weights again
    return None


def _written(
    setup: TrainingSetup,
    student: Student,
    teacher: Teacher,
    shared: SharedVocabulary,
    notes: list[str],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and config.json of the trained student; add notes about the training."""
    config = dict(student.architecture.config)
    if shared.tokenizer != student.folder:
        config |= _special_ids(shared.tokenizer)
    packed = {}
    if student.fake_quantized:
        packed = student.fake_quantized.finish()
        notes.append(student.fake_quantized.summary(packed))
    notes += _summaries(setup, teacher)
    state = student.stored_state()
    if student.stays_packed:
        notes.append(
            f"{student.folder.name} stayed packed during training; the output is dense "
            f"({stored_dtype(config)}): quantize again to deploy it"
        )
        config.pop("quantization_config", None)
    if setup.options.qat:
        state = replace_packed(state, packed)
        config["quantization_config"] = quantization_block(setup.options.qat)
    return state, config


def _special_ids(tokenizer: Path) -> dict[str, Any]:
    """Return the ids in a config.json that belong to a tokenizer."""
    return {
        name: value
        for name, value in read_config(tokenizer).items()
        if name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }


def _summaries(setup: TrainingSetup, teacher: Teacher) -> list[str]:
    """Return notes about the teacher cache, the tracker and the processes."""
    options = setup.options
    notes: list[str] = []
    if isinstance(teacher.logits, CachedTeacher):
        notes.append(teacher.logits.summary())
    if options.tracker:
        notes.append(f"curves for {options.tracker} in {setup.curves}")
    if setup.processes.count > 1:
        notes.append(setup.processes.summary(options.batch_size))
    return notes
