"""The distill step: a student learns from a frozen teacher (hidden states first, then logits), from the data, or from both."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint import content_hash, read_config, read_family, scratch_directory, stored_dtype, write_checkpoint
from ...configs import quantization
from ...data.packing import shuffled_forever
from ...data.sources import Source, training_rows
from ...errors import Refused, UsageError
from ...loading import load_model, load_tokenizer, pick_device
from ...models import Family
from ...steps import StepContext, StepResult, as_tensor
from ..prune.runner import PruneOptions, prune
from .lora import LoraOptions, adapted, lora_targets
from .objectives import HiddenAlignment, LabelLearning, LogitDistillation
from .options import DistillOptions, Stage, StudentFrom
from .qat import CENTRED, QuantizedStudent, check_widths, starting_integers, with_packed
from .sparse import zeros_of
from .targets import OnlineTeacher, Targets
from .teacher_cache import CachedTeacher
from .trainer import TrainConfig, train

__all__ = ["distill", "shared_vocabulary"]


def distill(options: DistillOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Train a student, on a teacher or on the data alone, and write it to `out`.

    Raises:
        Refused: the tokenizers differ, the weights do not fit the grid to learn on, or adapters were asked for on a sparse student.
        UsageError: an input is broken, the data too small, a matrix to adapt unknown, or a teacher cache not this teacher's.
        EdgewrightError: the loss stopped being finite.
    """
    teacher_dir = context.resolve(options.teacher) if options.teacher else None
    device = pick_device(context.device)
    with scratch_directory(out.with_name(f".{out.name}.student")) as made:
        student_dir, notes, provenance = _student(options, source, made, context)
        family, config = _trainable(student_dir, options)
        vocab, vocab_note = shared_vocabulary(teacher_dir, student_dir) if teacher_dir else (0, "")
        torch.manual_seed(context.seed)
        teacher, targets = _teaching(options, teacher_dir, vocab, student_dir, context, device)
        student = load_model(student_dir, device)
        put_back = zeros_of(student, family, student_dir)
        low_bit = _on_grid(options, student, family, student_dir, context)
        with _learning(student, family, options.lora, put_back is not None, notes):
            hold = [f for f in (put_back, low_bit.restrain if low_bit else None) if f]
            losses = _stages(options, student, (teacher, targets), vocab, student_dir, context, device, hold)
        packed = low_bit.packed() if low_bit else {}
        notes += [low_bit.told(packed)] if low_bit else []
        notes += [targets.told()] if isinstance(targets, CachedTeacher) else []
        dtype = stored_dtype(config)
        tied = set(student._tied_weights_keys or ()) if student.config.tie_word_embeddings else set()
        state = family.stored({k: v.detach().cpu().to(dtype) for k, v in student.state_dict().items() if k not in tied})
        if options.qat:
            state, config = with_packed(state, packed), {**config, "quantization_config": options.qat.block()}
        taught_by = content_hash(teacher_dir) if teacher_dir else None
        provenance |= {"kind": "checkpoint", "step": "distill", "teacher": taught_by, "options": options.model_dump()}
        provenance |= {"sparsity": "2:4"} if put_back else {}
        write_checkpoint(out, state, config, student_dir, provenance)
    first_last = "; ".join(f"{name}: {curve[0]:.4f} -> {sum(curve[-10:]) / len(curve[-10:]):.4f}" for name, curve in losses.items())
    tokens = sum(s.steps for s in options.stages) * options.batch_size * options.seq_len
    notes += [f"loss {first_last}", f"{tokens:,} tokens seen"] + ([vocab_note] if vocab_note else [])
    return StepResult(notes, {"loss": losses})


def _student(options: DistillOptions, source: Path, made: Path, context: StepContext) -> tuple[Path, list[str], dict[str, Any]]:
    """The student's directory (cut from another model when the recipe says so), notes and provenance."""
    if isinstance(options.student, StudentFrom):
        cut = PruneOptions(**options.student.model_dump(exclude={"source"}))
        result = prune(cut, context.resolve(options.student.source), made, context)
        return made, [f"student: {note}" for note in result.notes], {"student_cut": result.details.get("kept_layers")}
    folder = context.resolve(options.student) if options.student else source
    return folder, [], {"student": content_hash(folder)}


def _trainable(student: Path, options: DistillOptions) -> tuple[Family, dict[str, Any]]:
    """Family and config of a student, once it is clear that it can learn in this way."""
    family, config = read_family(student)
    if quantization(config) and not options.qat:
        raise UsageError(f"{student}: a packed checkpoint cannot learn", "distill first, then quantize; or learn on its grid, with `qat`")
    if options.lora:
        lora_targets(family, options.lora)  # refuses before anything is loaded
    if options.qat:
        check_widths(options.qat, family, config, str(student))
    return family, config


def _on_grid(options: DistillOptions, student: Any, family: Family, folder: Path, context: StepContext) -> QuantizedStudent | None:
    """The student with fake-quantized weights, if it learns so: on the grid of another checkpoint, or on its own if it is packed."""
    if options.qat is None:
        return None
    own = folder if quantization(read_config(folder)) else None
    packed = context.resolve(options.qat.scales_from) if options.qat.scales_from else own
    start = starting_integers(options.qat, student, family, packed)
    return QuantizedStudent(student, family, start, centred=0.0 if packed is None else CENTRED)


@contextmanager
def _learning(student: Any, family: Family, lora: LoraOptions | None, sparse: bool, notes: list[str]) -> Iterator[None]:
    """All of the student learns in the block (its zeros aside), or adapters that are merged at its end."""
    if lora is None:
        notes += ["the student is 2:4 sparse and stays so: its zeros do not learn"] if sparse else []
        yield
        return
    if sparse:
        raise Refused(
            "the student is 2:4 sparse: merging adapters adds a dense matrix and would fill its zeros",
            "let all weights learn (leave --lora out), or recover first and make it sparse afterwards",
        )
    whole = sum(p.numel() for p in student.parameters())
    with adapted(student, family, lora) as count:
        names = ", ".join(name.rpartition(".")[2] for name in lora_targets(family, lora))
        notes.append(f"adapters of rank {lora.r} on {names}, merged: {count:,} parameters learnt, {whole:,} in the student")
        yield


def _teaching(
    options: DistillOptions, folder: Path | None, vocab: int, tokenizer_dir: Path, context: StepContext, device: str
) -> tuple[Any, Targets | None]:  # fmt: skip
    """The teacher in memory, if it must stay there, and the targets it gives; what a cache lacks is added before any student is loaded."""
    if folder is None:
        return None, None
    if options.teacher_cache is None:
        teacher = load_model(folder, device).requires_grad_(False)
        return teacher, OnlineTeacher(teacher, vocab)
    logits = [stage.loss == "logits" for stage in options.stages]
    temperatures = [stage.temperature for stage, taught in zip(options.stages, logits, strict=True) if taught]
    cache = CachedTeacher(options.teacher_cache, content_hash(folder), vocab, temperatures)
    stream = _rows(options, tokenizer_dir, context.seed)
    sizes = [stage.steps * options.batch_size for stage in options.stages]
    needed = (row for size, taught in zip(sizes, logits, strict=True) for row in itertools.islice(stream, size) if taught)
    if missing := list(cache.missing(needed)):
        cache.fill(load_model(folder, device).requires_grad_(False), missing, options.batch_size)
    return None, cache


def _stages(
    options: DistillOptions, student: nn.Module, taught_by: tuple[Any, Targets | None], vocab: int, tokenizer_dir: Path,
    context: StepContext, device: str, hold: Sequence[Callable[[], None]],
) -> dict[str, list[float]]:  # fmt: skip
    def after_step() -> None:
        for keep in hold:
            keep()

    rows = _rows(options, tokenizer_dir, context.seed)
    losses: dict[str, list[float]] = {}
    for number, stage in enumerate(options.stages, 1):
        objective = _objective(stage, student, *taught_by, vocab)
        config = TrainConfig(stage.steps, stage.lr, options.batch_size, bf16=options.bf16, optimizer=options.optimizer, device=device)
        name = stage.loss if stage.loss not in losses else f"{stage.loss}-{number}"
        losses[name] = train(objective, rows, config, f"learning ({stage.loss})", after_step)
    return losses


def _objective(stage: Stage, student: nn.Module, teacher: Any, targets: Targets | None, vocab: int) -> nn.Module:
    if targets is None or stage.loss == "labels":
        return LabelLearning(student)
    if stage.loss == "hidden":
        return HiddenAlignment(student, teacher)
    return LogitDistillation(student, targets, stage.temperature, stage.hard, vocab, stage.divergence)


def _rows(options: DistillOptions, tokenizer_dir: Path, seed: int) -> Iterator[Tensor]:
    """Rows without end: a generator is endless itself, files go round in shuffled epochs."""
    source, tokenizer = Source.parse(options.data), load_tokenizer(tokenizer_dir)
    stream = training_rows(tokenizer, source, options.seq_len, seed)
    if source.kind == "builtin":
        return (as_tensor(row) for row in stream)
    every = list(stream)
    learnt = every[: len(every) - options.hold_out]
    if not learnt:
        raise UsageError(f"{options.data}: {len(every)} rows, all of which are held out", "give more data, or hold fewer rows out")
    return (as_tensor(row) for row in shuffled_forever(learnt, seed))


def shared_vocabulary(teacher: Path, student: Path) -> tuple[int, str]:
    """How many logits both models share, and a note when padding was cut off.

    Vocabularies of one family are padded differently (Qwen2.5: 152064 and 151936 rows for the same tokens).

    Raises:
        Refused: the same id means different tokens, so the logits cannot be compared.
    """
    (t_family, t_config), (s_family, s_config) = read_family(teacher), read_family(student)
    t_size, s_size = t_family.shape(t_config).vocab_size, s_family.shape(s_config).vocab_size
    t_tokens = {i: token for token, i in load_tokenizer(teacher).get_vocab().items()}
    s_tokens = {i: token for token, i in load_tokenizer(student).get_vocab().items()}
    for i in sorted(t_tokens.keys() | s_tokens.keys()):
        if t_tokens.get(i) != s_tokens.get(i) and i < min(t_size, s_size):
            raise Refused(
                f"teacher and student tokenize differently: id {i} is {t_tokens.get(i)!r} to one and {s_tokens.get(i)!r} to the other",
                "choose a student of the teacher's family",
            )
    size = min(t_size, s_size)
    return size, "" if t_size == s_size else f"logits cut to the {size} ids both models have (teacher {t_size}, student {s_size})"
