"""Run the stages of a distillation, one after the other, on the same student."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from torch import Tensor

from ...checkpoints.config import end_tokens
from ...checkpoints.loading import load_model
from ...checkpoints.tokenizer import all_end_tokens, load_tokenizer
from .attention import AttentionAlignment, eager_attention
from .checks import SharedVocabulary
from .early_stop import EarlyStopping, summarize_early_stop
from .freezing import frozen_parameters
from .objectives import HiddenAlignment, LabelLearning, LogitDistillation, Objective
from .on_policy import Continuation, OnPolicyDistillation
from .optimizers import TrainConfig
from .options import DistillOptions, Stage
from .sharding import gathered_state, is_sharded
from .student import Student
from .teacher import Teacher
from .tracking import Tracking
from .trainer import train
from .training_rows import StageRows
from .training_setup import TrainingSetup
from .training_state import Saves

__all__ = ["summarize_stages", "train_stages"]


def train_stages(
    setup: TrainingSetup, student: Student, teacher: Teacher, shared: SharedVocabulary
) -> list[str]:
    """Train a student in all stages, from the last save on.

    Losses are collected in `setup.saves`. With sharded weights, `student.model` is a new model with
    the trained weights afterwards.

    Args:
        setup: of the distillation.
        student: changed in place.
        teacher: model or logits of the teacher.
        shared: vocabulary of teacher and student.

    Returns:
        Notes about rows of the data that were not used whole.

    Raises:
        NotFinite: the loss is not finite; the student has the weights of the last save again.
    """
    options = setup.options
    for stage in options.stages:
        frozen_parameters(student.model, stage.freeze)  # refuses before anything is trained
    rows = StageRows(options, shared.tokenizer, setup.context.seed)
    resumed = setup.saves.stage
    ends = all_end_tokens(end_tokens(shared.tokenizer), load_tokenizer(shared.tokenizer))
    for number, stage in enumerate(options.stages, 1):
        stream = rows.of(stage)
        if number < resumed:
            deque(stream, maxlen=0)  # skip its rows
            continue
        if options.checkpoint_layers:
            student.model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        continuation = Continuation(stage.on_policy, setup.context.seed, number, ends)
        objective = _objective(stage, student, teacher, shared.size, continuation)
        objective.frozen = frozen_parameters(student.model, stage.freeze)
        held_out = rows.held_out(stage) if stage.early_stop else []
        _train_stage(setup, number, objective, stream, held_out, student, teacher)
        deque(stream, maxlen=0)  # a stage that ended early leaves rows; skip them
        if is_sharded(student.model):
            state = gathered_state(student.model)
            student.model = load_model(student.folder, setup.device)
            student.model.load_state_dict(state)
    return rows.notes()


def _train_stage(
    setup: TrainingSetup,
    number: int,
    objective: Objective,
    rows: Iterator[Tensor],
    held_out: Sequence[Tensor],
    student: Student,
    teacher: Teacher,
) -> None:
    """Train one stage, from the last save on, and collect its losses.

    Args:
        setup: of the distillation.
        number: of the stage, from 1 on.
        objective: its loss.
        rows: to train on, int64 [2, seq] each.
        held_out: rows to measure on, for early stopping.
        student: holds what a step must not change.
        teacher: switched to eager attention where its maps are used.
    """
    options = setup.options
    stage = options.stages[number - 1]
    name = _names(options.stages)[number]
    config = TrainConfig(
        stage.steps,
        stage.lr,
        options.batch_size,
        options.accumulate,
        bf16=options.bf16,
        optimizer=options.optimizer,
        device=setup.device,
        tracking=Tracking(options.tracker, setup.curves, name) if options.tracker else None,
    )
    saver = setup.saves.of_stage(number, stage.steps, name, last=number == len(options.stages))
    saver.require_space(objective)
    stopping = EarlyStopping(stage.early_stop, held_out) if stage.early_stop else None
    label = f"training ({stage.loss})"
    with eager_attention(student.model, teacher.model) if stage.attention else nullcontext():
        setup.saves.losses[name] = train(
            objective, rows, config, label, student.after_step, saver, stopping
        )
    if stopping:
        setup.saves.held_out[name] = stopping.curve


def _names(stages: Sequence[Stage]) -> dict[int, str]:
    """Return the name of every stage: its loss, with its number if the loss occurred before."""
    names: dict[int, str] = {}
    for number, stage in enumerate(stages, 1):
        names[number] = f"{stage.loss}-{number}" if stage.loss in names.values() else stage.loss
    return names


def _objective(
    stage: Stage, student: Student, teacher: Teacher, vocab: int, continuation: Continuation
) -> Objective:
    """Return the loss of a stage as a module."""
    model = student.model
    if teacher.logits is None or stage.loss == "labels":
        return LabelLearning(model)
    if stage.attention:
        return AttentionAlignment(model, teacher.model, stage.layers, stage.attention)
    if stage.loss == "hidden":
        return HiddenAlignment(model, teacher.model, stage.layers)
    if stage.on_policy:
        return OnPolicyDistillation(
            model, teacher.logits, stage.temperature, vocab, stage.divergence, continuation
        )
    return LogitDistillation(
        model, teacher.logits, stage.temperature, stage.hard, vocab, stage.divergence
    )


def summarize_stages(options: DistillOptions, saves: Saves) -> list[str]:
    """Return the notes about the stages: losses, on-policy rows, early stops, tokens."""
    stages = [(name, options.stages[number - 1]) for number, name in _names(options.stages).items()]
    means = {name: sum(curve[-10:]) / len(curve[-10:]) for name, curve in saves.losses.items()}
    first_last = "; ".join(
        f"{name}: {curve[0]:.4f} -> {means[name]:.4f}" for name, curve in saves.losses.items()
    )
    continued = [
        f"{stage.on_policy:.0%} of the rows of {name} were continued by the student itself"
        for name, stage in stages
        if stage.on_policy
    ]
    stopped = [
        summarize_early_stop(name, saves.held_out[name], stage.steps, options.hold_out)
        for name, stage in stages
        if stage.early_stop
    ]
    tokens = sum(map(len, saves.losses.values())) * options.batch_size * options.seq_len
    return [f"loss {first_last}", *continued, *stopped, f"{tokens:,} tokens seen"]
