"""The distill step: hidden states first, then logits, from a frozen teacher into a smaller student."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from ...checkpoint import content_hash, read_config, read_family, scratch_directory, stored_dtype, write_checkpoint
from ...data.packing import shuffled_forever
from ...data.sources import Source, training_rows
from ...errors import Refused, UsageError
from ...layouts import is_gptq
from ...loading import load_model, load_tokenizer, pick_device
from ...steps import StepContext, StepResult, as_tensor
from ..prune.runner import PruneOptions, prune
from .objectives import HiddenAlignment, LogitDistillation
from .trainer import TrainConfig, train

__all__ = ["DistillOptions", "Stage", "StudentFrom", "distill", "shared_vocabulary"]


class Stage(BaseModel):
    """One stage of learning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["hidden", "logits"] = Field(description="hidden-state MSE, or KL on the logits")
    steps: int = Field(gt=0, description="optimizer steps")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate; cosine to zero")
    temperature: float = Field(default=1.0, gt=0, description="of the KL")
    hard: float = Field(default=0.0, ge=0, le=1, description="share of cross-entropy with the data in the logits stage")


class StudentFrom(PruneOptions):
    """A student made from another model by cutting it: whatever `prune` can do."""

    source: str = Field(alias="from", description="a step's name, a directory or a hub id")


class DistillOptions(BaseModel):
    """Who teaches whom, on what, for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str = Field(default="baseline", description="a step's name, a directory or a hub id")
    student: str | StudentFrom | None = Field(default=None, description="likewise, or how to make one; default: the step's input")
    data: str = Field(default="builtin:reasoning", description="what to learn on")
    seq_len: int = Field(default=256, gt=1, description="tokens a packed row")
    batch_size: int = Field(default=16, gt=0, description="rows a step")
    stages: tuple[Stage, ...] = Field(
        default=(Stage(loss="hidden", steps=100), Stage(loss="logits", steps=400)), min_length=1, description="in this order"
    )
    optimizer: Literal["adamw", "muon"] = Field(default="adamw", description="muon: orthogonal steps for matrices, AdamW for the rest")
    bf16: bool | None = Field(default=None, description="bfloat16 matrix products; default: where the processor has them")


def distill(options: DistillOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Train a student on a teacher and write it to `out`.

    Raises:
        Refused: the tokenizers differ, or one of the models is quantized.
        UsageError: an input is broken or the data too small.
        EdgewrightError: the loss stopped being finite.
    """
    teacher_dir = context.resolve(options.teacher)
    device = pick_device(context.device)
    with scratch_directory(out, "student") as made:
        student_dir, notes, provenance = _student(options, source, made, context)
        vocab, vocab_note = shared_vocabulary(teacher_dir, student_dir)
        torch.manual_seed(context.seed)
        teacher, student = load_model(teacher_dir, device), load_model(student_dir, device)
        teacher.requires_grad_(False)
        losses = _stages(options, student, teacher, vocab, student_dir, context, device)
        _, config = read_family(student_dir)
        dtype = stored_dtype(config)
        tied = set(student._tied_weights_keys or ()) if student.config.tie_word_embeddings else set()
        state = {k: v.detach().cpu().to(dtype) for k, v in student.state_dict().items() if k not in tied}
        provenance |= {"kind": "checkpoint", "step": "distill", "teacher": content_hash(teacher_dir), "options": options.model_dump()}
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
        return made, [f"student: {note}" for note in result.notes], {"student_cut": result.details["kept_layers"]}
    folder = context.resolve(options.student) if options.student else source
    return folder, [], {"student": content_hash(folder)}


def _stages(
    options: DistillOptions, student: nn.Module, teacher: nn.Module, vocab: int, tokenizer_dir: Path, context: StepContext, device: str
) -> dict[str, list[float]]:  # fmt: skip
    rows = _rows(options, tokenizer_dir, context.seed)
    losses: dict[str, list[float]] = {}
    for number, stage in enumerate(options.stages, 1):
        objective: nn.Module = HiddenAlignment(student, teacher)
        if stage.loss == "logits":
            objective = LogitDistillation(student, teacher, stage.temperature, stage.hard, vocab)
        config = TrainConfig(stage.steps, stage.lr, options.batch_size, bf16=options.bf16, optimizer=options.optimizer, device=device)
        name = stage.loss if stage.loss not in losses else f"{stage.loss}-{number}"
        losses[name] = train(objective, rows, config, f"distilling ({stage.loss})")
    return losses


def _rows(options: DistillOptions, tokenizer_dir: Path, seed: int) -> Iterator[Tensor]:
    """Rows without end: a generator is endless itself, files go round in shuffled epochs."""
    source, tokenizer = Source.parse(options.data), load_tokenizer(tokenizer_dir)
    stream = training_rows(tokenizer, source, options.seq_len, seed)
    rows = stream if source.kind == "builtin" else shuffled_forever(list(stream), seed)
    return (as_tensor(row) for row in rows)


def shared_vocabulary(teacher: Path, student: Path) -> tuple[int, str]:
    """How many logits both models share, and a note when padding was cut off.

    Vocabularies of one family are padded differently (Qwen2.5: 152064 and 151936 rows for the same tokens).

    Raises:
        Refused: the same id means different tokens, so the logits cannot be compared.
        UsageError: a packed checkpoint was given where a trainable one is needed.
    """
    if is_gptq(read_config(student)):
        raise UsageError(f"{student}: a packed checkpoint cannot learn", "distill first, then quantize")
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
