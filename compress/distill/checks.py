"""Checks before training: the student's size, sharded weights, and the two vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checkpoints.config import read_architecture
from ...checkpoints.tokenizer import load_tokenizer
from ...errors import Refused, UsageError
from ...models import Architecture
from .options import DistillOptions, Stage

__all__ = ["SharedVocabulary", "check_sharded", "check_sizes", "shared_vocabulary"]


def check_sizes(teacher: Architecture, student: Architecture, stages: Sequence[Stage]) -> None:
    """Check that the student is no larger than its teacher and that all layers to align exist.

    Raises:
        Refused: the student's decoder layers have more parameters than the teacher's.
        UsageError: a stage names a layer that does not exist.
    """
    large = teacher.decoder_parameters
    small = student.decoder_parameters
    if small > large:
        raise Refused(
            f"the student ({small:,} parameters without its vocabulary) is larger than the teacher "
            f"({large:,}), so it would be slower than the model it learns from",
            "exchange the two, or cut a student from the teacher: `edgewright prune`",
        )
    depths = [len(model.layers) for model in (student, teacher)]
    for stage in stages:
        for pair in stage.layers or ():
            for who, layer, depth in zip(("student", "teacher"), pair, depths, strict=True):
                if not 0 <= layer <= depth:
                    raise UsageError(
                        f"layers {list(pair)}: the {who} has {depth} layers, and no layer {layer}",
                        "pairs are [student layer, teacher layer], counted from 1; leave `layers` "
                        "out to align evenly over the depth",
                    )


def check_sharded(options: DistillOptions, *, sparse: bool, sharded: bool) -> None:
    """Check that sharded weights can be trained with these options.

    Args:
        options: of the distillation.
        sparse: whether the student is 2:4 sparse.
        sharded: whether each process holds a part of the weights.

    Raises:
        Refused: some options do not work with sharded weights; the message names them.
    """
    asked = {
        "qat": options.qat,
        "lora": options.lora,
        "optimizer: muon": options.optimizer == "muon",
        "a 2:4 sparse student": sparse,
        "early_stop": any(stage.early_stop for stage in options.stages),
        "on_policy": any(stage.on_policy for stage in options.stages),
        "attention": any(stage.attention for stage in options.stages),
    }
    if sharded and (wrong := [name for name, there in asked.items() if there]):
        raise Refused(
            f"{', '.join(wrong)}: not supported with sharded weights (FSDP or DeepSpeed), where "
            "each process holds a part",
            "start the processes without sharding (torchrun), or leave it out",
        )


@dataclass(frozen=True)
class SharedVocabulary:
    """What the vocabularies of teacher and student have in common."""

    size: int
    """Number of logits that both have."""
    tokenizer: Path
    """Directory of the tokenizer to use: the student's, or the teacher's if added tokens differ."""
    notes: list[str]


def shared_vocabulary(teacher: Path, student: Path) -> SharedVocabulary:
    """Compare two vocabularies id by id.

    Models of one family may pad the vocabulary differently (Qwen2.5: 152064 and 151936 rows for
    the same tokens). Tokens added for conversations may have other names (DeepSeek-R1's distilled
    Qwen): then the student is trained, and written, with the teacher's tokenizer.

    Raises:
        Refused: the same id means different text, so the logits cannot be compared; or the teacher
            has tokens that the student lacks.
    """
    sizes = [read_architecture(model).vocab_size for model in (teacher, student)]
    tokenizers = [load_tokenizer(teacher), load_tokenizer(student)]
    t_tokens, s_tokens = (
        {i: token for token, i in tokenizer.get_vocab().items()} for tokenizer in tokenizers
    )
    size = min(sizes)
    added = {i for tokenizer in tokenizers for i in tokenizer.added_tokens_decoder}
    unlike = [
        i
        for i in sorted(t_tokens.keys() | s_tokens.keys())
        if i < size and t_tokens.get(i) != s_tokens.get(i)
    ]
    for i in unlike:
        if i not in added:
            raise Refused(
                f"teacher and student tokenize differently: id {i} is {t_tokens.get(i)!r} for the "
                f"teacher and {s_tokens.get(i)!r} for the student",
                "choose a student of the teacher's family",
            )
    notes: list[str] = []
    if len(set(sizes)) > 1:
        notes.append(
            f"logits cut to the {size} ids both models have "
            f"(teacher {sizes[0]}, student {sizes[1]})"
        )
    if not unlike:
        return SharedVocabulary(size, student, notes)
    notes.append(_use_teacher_tokenizer(t_tokens, s_tokens, unlike, sizes[1]))
    return SharedVocabulary(size, teacher, notes)


def _use_teacher_tokenizer(
    teacher: dict[int, str], student: dict[int, str], unlike: list[int], ids: int
) -> str:
    """Check that the student can use the teacher's tokenizer; return a note that it does.

    Args:
        teacher: its tokens by id.
        student: its tokens by id.
        unlike: ids of added tokens whose names differ.
        ids: number of ids that the student has.
    """
    if (last := max(teacher)) >= ids:
        raise Refused(
            f"the teacher's token {teacher[last]!r} has id {last}, and the student has only "
            f"{ids} ids",
            "choose another student",
        )
    first = unlike[0]
    return (
        f"{len(unlike)} added tokens have other names (id {first}: teacher "
        f"{teacher.get(first)!r}, student {student.get(first)!r}): "
        "the student is written with the teacher's tokenizer"
    )
