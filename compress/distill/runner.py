"""The distill step: a student learns from a frozen teacher (hidden states first, then logits), from the data, or from both."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.config import end_tokens, quantization
from ...checkpoints.files import (
    content_hash,
    read_config,
    read_family,
    scratch_directory,
    stored_dtype,
    write_checkpoint,
)
from ...checkpoints.loading import load_model, load_tokenizer, pick_device
from ...errors import Refused, UsageError
from ...models import Family
from ...steps.context import StepContext, StepResult
from ...steps.workspace import workspace
from ..prune.options import PruneOptions
from ..prune.runner import prune
from .attention import AttentionAlignment, check_maps, eager, maps_told
from .checks import SharedVocabulary, check_sharded, check_sizes, shared_vocabulary
from .early_stop import Watch, told
from .freezing import frozen
from .keep_sparsity import zeros_of
from .lora import adapted, lora_targets
from .objectives import HiddenAlignment, LabelLearning, LogitDistillation, Objective
from .on_policy import OnPolicyDistillation, Writing
from .options import DistillOptions, LoraOptions, Stage, StudentFrom
from .packed_base import check_packed, load_packed
from .processes import Processes
from .qat import (
    CENTRED,
    QuantizedStudent,
    check_widths,
    quantization_block,
    starting_integers,
    with_packed,
)
from .sharding import is_sharded, whole_state
from .teacher_cache import CachedTeacher
from .teacher_logits import OnlineTeacher, Targets
from .tracking import Tracking, check_tracker
from .trainer import NotFinite, TrainConfig, train
from .training_rows import Rows
from .training_state import FINISHED, Saves

__all__ = ["distill"]

PACKED_HINT = "distill first, then quantize; or learn on its grid, with `qat`, or adapters beside it, with `lora`"


def distill(options: DistillOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Train a student, on a teacher or on the data alone, and write it to `out`.

    In several processes all of them call this, with the same arguments; the main one writes.

    Raises:
        Refused: the tokenizers differ, the student is larger than its teacher, the weights do not fit the grid to learn on, or adapters
            were asked for on a sparse student.
        UsageError: an input is broken, the data too small, a matrix to adapt unknown, or a teacher cache not this teacher's.
        EdgewrightError: a tracker's package is missing, the loss stopped being finite (the student of the last save is kept), the memory
            ran out, or another process ended.
    """
    check_tracker(options.tracker)
    device = pick_device(context.device)
    processes = Processes(device)
    depends_on = {**context.depends_on, "processes": processes.count} if context.depends_on else {}
    place = out.with_name(f".{out.name}.learning")
    with (
        processes.together(),
        processes.inside(
            lambda: workspace(out, "learning", depends_on, FINISHED, context.fresh), place
        ),
        processes.inside(
            lambda: scratch_directory(out.with_name(f".{out.name}.student")),
            out.with_name(f".{out.name}.student"),
        ) as made,
    ):
        saves = Saves(place if depends_on else None, options.save_every, processes)
        where = _Learning(device, processes, saves, out.with_name(f"{out.name}.{options.tracker}"))
        return _distill(options, source, out, context, made, where)


@dataclass(frozen=True)
class _Learning:
    """Where learning happens: device, processes, and what is kept of it on the way."""

    device: str
    processes: Processes
    saves: Saves
    curves: Path
    """Folder of a tracker, if there is one."""


def _distill(
    options: DistillOptions,
    source: Path,
    out: Path,
    context: StepContext,
    made: Path,
    where: _Learning,
) -> StepResult:
    teacher_dir, processes = (
        context.resolve(options.teacher) if options.teacher else None,
        where.processes,
    )
    student_dir, notes, provenance = _student(options, source, made, context, processes)
    family, config = _trainable(student_dir, options, teacher_dir)
    shared = (
        shared_vocabulary(teacher_dir, student_dir)
        if teacher_dir
        else SharedVocabulary(0, student_dir, [])
    )
    config |= _special_ids(shared.tokenizer) if shared.tokenizer != student_dir else {}
    torch.manual_seed(context.seed)
    teacher, targets = _teaching(options, teacher_dir, shared, context, where)
    beside = bool(options.lora and quantization(config))  # adapters, and the weights stay packed
    student = (
        load_packed(student_dir, where.device) if beside else load_model(student_dir, where.device)
    )
    put_back = zeros_of(student, family, student_dir)
    check_sharded(options, sparse=put_back is not None, sharded=processes.sharded)
    if teacher_dir and any(stage.attention for stage in options.stages):
        rows = options.batch_size // (processes.count * options.accumulate)
        notes.append(
            maps_told(
                read_family(teacher_dir), (family, config), rows, options.seq_len, where.device
            )
        )
    low_bit = _on_grid(options, student, family, student_dir, context)
    provenance |= {
        "kind": "checkpoint",
        "step": "distill",
        "teacher": content_hash(teacher_dir) if teacher_dir else None,
    }
    provenance |= {"options": options.model_dump()} | ({"sparsity": "2:4"} if put_back else {})
    failed: NotFinite | None = None
    with _learning(student, family, config, options.lora, put_back is not None, notes):
        hold = [f for f in (put_back, low_bit.restrain if low_bit else None) if f]
        try:
            student = _stages(
                options, student, (teacher, targets), shared, student_dir, context, where, hold
            )
        except NotFinite as error:
            if not where.saves.whole:
                raise NotFinite(f"{error}; {where.saves.told()}", error.hint) from error
            failed = error  # the student has its last good weights again
    packed = low_bit.packed() if low_bit else {}
    notes += [low_bit.told(packed)] if low_bit else []
    notes += [targets.told()] if isinstance(targets, CachedTeacher) else []
    notes += [f"curves for {options.tracker} in {where.curves}"] if options.tracker else []
    notes += [processes.told(options.batch_size)] if processes.count > 1 else []
    state = _stored(student, family, config)
    if beside:
        notes.append(
            f"{student_dir.name} stayed packed; what is written is dense ({stored_dtype(config)}): quantize again to deploy it"
        )
        config = {name: value for name, value in config.items() if name != "quantization_config"}
    if options.qat:
        state, config = (
            with_packed(state, packed),
            {**config, "quantization_config": quantization_block(options.qat)},
        )
    good = out if failed is None else out.with_name(f"{out.name}.last-good")
    processes.first(lambda: write_checkpoint(good, state, config, shared.tokenizer, provenance))
    if failed:
        raise NotFinite(
            f"{failed}; {where.saves.told()}, and the student of then is in {good}", failed.hint
        ) from failed
    held_out = where.saves.held_out
    notes += [*_learnt(options, where.saves), *shared.notes]
    return StepResult(
        notes, {"loss": where.saves.losses} | ({"held_out": held_out} if held_out else {})
    )


def _learnt(options: DistillOptions, saves: Saves) -> list[str]:
    """What to say of the stages: losses, whose rows, where they ended, how many tokens."""
    stages = [(name, options.stages[number - 1]) for number, name in _names(options.stages).items()]
    means = {name: sum(curve[-10:]) / len(curve[-10:]) for name, curve in saves.losses.items()}
    first_last = "; ".join(
        f"{name}: {curve[0]:.4f} -> {means[name]:.4f}" for name, curve in saves.losses.items()
    )
    written = [
        f"{s.on_policy:.0%} of the rows of {name} were continued by the student itself"
        for name, s in stages
        if s.on_policy
    ]
    stopped = [
        told(name, saves.held_out[name], s.steps, options.hold_out)
        for name, s in stages
        if s.early_stop
    ]
    tokens = sum(map(len, saves.losses.values())) * options.batch_size * options.seq_len
    return [f"loss {first_last}", *written, *stopped, f"{tokens:,} tokens seen"]


def _special_ids(tokenizer: Path) -> dict[str, Any]:
    """The ids in a config.json that go with a tokenizer."""
    return {
        name: value
        for name, value in read_config(tokenizer).items()
        if name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }


def _stored(student: Any, family: Family, config: dict[str, Any]) -> dict[str, Tensor]:
    """The student's tensors as its checkpoint has them: tied ones once, in its type."""
    dtype = stored_dtype(config)
    tied = set(student._tied_weights_keys or ()) if student.config.tie_word_embeddings else set()
    return family.stored(
        {k: v.detach().cpu().to(dtype) for k, v in student.state_dict().items() if k not in tied}
    )


def _student(
    options: DistillOptions, source: Path, made: Path, context: StepContext, processes: Processes
) -> tuple[Path, list[str], dict[str, Any]]:
    """The student's directory (cut from another model when the recipe says so), notes and provenance."""
    if isinstance(options.student, StudentFrom):
        cut, model = (
            PruneOptions(**options.student.model_dump(exclude={"source"})),
            context.resolve(options.student.source),
        )
        result = processes.first(lambda: prune(cut, model, made, context)) or StepResult()
        return (
            made,
            [f"student: {note}" for note in result.notes],
            {"student_cut": result.details.get("kept_layers")},
        )
    folder = context.resolve(options.student) if options.student else source
    return folder, [], {"student": content_hash(folder)}


def _trainable(
    student: Path, options: DistillOptions, teacher: Path | None
) -> tuple[Family, dict[str, Any]]:
    """Family and config of a student, once it is clear that it can learn in this way."""
    family, config = read_family(student)
    if teacher:
        check_sizes(read_family(teacher), (family, config), options.stages)
        for stage in (stage for stage in options.stages if stage.attention):
            check_maps(read_family(teacher), (family, config), stage.layers, options.seq_len)
    if quantization(config) and not options.qat and not options.lora:
        raise UsageError(f"{student}: a packed checkpoint cannot learn", PACKED_HINT)
    if options.lora:
        lora_targets(family, options.lora)  # refuses before anything is loaded
        if quantization(config):
            check_packed(student)
    if options.qat:
        check_widths(options.qat, family, config, str(student))
    return family, config


def _on_grid(
    options: DistillOptions, student: Any, family: Family, folder: Path, context: StepContext
) -> QuantizedStudent | None:
    """The student with fake-quantized weights, if it learns so: on the grid of another checkpoint, or on its own if it is packed."""
    if options.qat is None:
        return None
    own = folder if quantization(read_config(folder)) else None
    packed = context.resolve(options.qat.scales_from) if options.qat.scales_from else own
    start = starting_integers(options.qat, student, family, packed)
    return QuantizedStudent(student, family, start, centred=0.0 if packed is None else CENTRED)


@contextmanager
def _learning(
    student: Any,
    family: Family,
    config: dict[str, Any],
    lora: LoraOptions | None,
    sparse: bool,
    notes: list[str],
) -> Iterator[None]:
    """All of the student learns in the block (its zeros aside), or adapters that are merged at its end."""
    if lora is None:
        notes += (
            ["the student is 2:4 sparse and stays so: its zeros do not learn"] if sparse else []
        )
        yield
        return
    if sparse:
        raise Refused(
            "the student is 2:4 sparse: merging adapters adds a dense matrix and would fill its zeros",
            "let all weights learn (leave --lora out), or recover first and make it sparse afterwards",
        )
    whole = family.parameters(config)
    with adapted(student, family, lora, stored_dtype(config)) as count:
        names = ", ".join(name.rpartition(".")[2] for name in lora_targets(family, lora))
        notes.append(
            f"adapters of rank {lora.r} on {names}, merged: {count:,} parameters learnt, {whole:,} in the student"
        )
        yield


def _teaching(
    options: DistillOptions,
    folder: Path | None,
    shared: SharedVocabulary,
    context: StepContext,
    where: _Learning,
) -> tuple[Any, Targets | None]:
    """The teacher in memory, if it must stay there, and the targets it gives; what a cache lacks is added before any student is loaded."""
    if folder is None:
        return None, None
    if options.teacher_cache is None:
        teacher = load_model(folder, where.device).requires_grad_(False)
        return teacher, OnlineTeacher(teacher, shared.size)
    where.processes.first(lambda: _filled(options, folder, shared, context, where.device))
    return None, _cache(options, folder, shared.size)


def _cache(options: DistillOptions, folder: Path, vocab: int) -> CachedTeacher:
    assert options.teacher_cache is not None
    temperatures = [stage.temperature for stage in options.stages if stage.loss == "logits"]
    return CachedTeacher(options.teacher_cache, content_hash(folder), vocab, temperatures)


def _filled(
    options: DistillOptions,
    folder: Path,
    shared: SharedVocabulary,
    context: StepContext,
    device: str,
) -> None:
    """Ask the teacher for what its cache lacks of the rows to come."""
    cache, rows = (
        _cache(options, folder, shared.size),
        Rows(options, shared.tokenizer, context.seed),
    )
    streams = (
        (stage, chain(rows.of(stage), rows.held_out(stage) if stage.early_stop else ()))
        for stage in options.stages
    )
    needed = (row for stage, stream in streams for row in stream if stage.loss == "logits")
    if missing := list(cache.missing(needed)):
        cache.fill(load_model(folder, device).requires_grad_(False), missing, options.batch_size)


def _stages(
    options: DistillOptions,
    student: Any,
    taught_by: tuple[Any, Targets | None],
    shared: SharedVocabulary,
    student_dir: Path,
    context: StepContext,
    where: _Learning,
    hold: Sequence[Callable[[], None]],
) -> Any:
    """The student after all stages: the one given, or a new one with its weights, where they were sharded."""

    def after_step() -> None:
        for keep in hold:
            keep()

    for stage in options.stages:
        frozen(student, stage.freeze)  # refuses before anything is learnt
    rows, saves = Rows(options, shared.tokenizer, context.seed), where.saves
    names, resumed, ends = _names(options.stages), saves.stage, _ends(shared.tokenizer)
    for number, stage in enumerate(options.stages, 1):
        stream = rows.of(stage)
        if number < resumed:
            deque(stream, maxlen=0)
            continue
        if options.checkpoint_layers:
            student.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        writing = Writing(stage.on_policy, context.seed, number, ends)
        objective = _objective(stage, student, *taught_by, shared.size, writing)
        objective.frozen = frozen(student, stage.freeze)
        tracking = (
            Tracking(options.tracker, where.curves, names[number]) if options.tracker else None
        )
        config = TrainConfig(
            stage.steps,
            stage.lr,
            options.batch_size,
            options.accumulate,
            bf16=options.bf16,
            optimizer=options.optimizer,
            device=where.device,
            tracking=tracking,
        )
        keeper = saves.of_stage(
            number, stage.steps, names[number], last=number == len(options.stages)
        )
        watch = Watch(stage.early_stop, rows.held_out(stage)) if stage.early_stop else None
        with eager(student, taught_by[0]) if stage.attention else nullcontext():
            saves.losses[names[number]] = train(
                objective, stream, config, f"learning ({stage.loss})", after_step, keeper, watch
            )
        saves.held_out |= {names[number]: watch.curve} if watch else {}
        deque(stream, maxlen=0)  # as a stage that was saved at its end takes no step
        if is_sharded(student):
            state, student = whole_state(student), load_model(student_dir, where.device)
            student.load_state_dict(state)
    return student


def _names(stages: Sequence[Stage]) -> dict[int, str]:
    """What the losses of every stage are called: by their kind, with the number where an earlier stage has it."""
    names: dict[int, str] = {}
    for number, stage in enumerate(stages, 1):
        names[number] = f"{stage.loss}-{number}" if stage.loss in names.values() else stage.loss
    return names


def _ends(folder: Path) -> list[int]:
    """The tokens that end a text: those that the model's files name, and its tokenizer's own."""
    own = load_tokenizer(folder).eos_token_id
    return sorted({*end_tokens(folder), *([] if own is None else [int(own)])})


def _objective(
    stage: Stage, student: Any, teacher: Any, targets: Targets | None, vocab: int, writing: Writing
) -> Objective:
    if targets is None or stage.loss == "labels":
        return LabelLearning(student)
    if stage.attention:
        return AttentionAlignment(student, teacher, stage.layers, stage.attention)
    if stage.loss == "hidden":
        return HiddenAlignment(student, teacher, stage.layers)
    if stage.on_policy:
        return OnPolicyDistillation(
            student, targets, stage.temperature, vocab, stage.divergence, writing
        )
    return LogitDistillation(
        student, targets, stage.temperature, stage.hard, vocab, stage.divergence
    )
