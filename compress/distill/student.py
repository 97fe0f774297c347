"""The student of a distillation: find it, check it, load it, and read out what is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.config import quantization, read_architecture
from ...checkpoints.hashing import content_hash
from ...checkpoints.loading import load_model, tied_names
from ...checkpoints.tensors import stored_dtype
from ...errors import Refused, UsageError
from ...models import Architecture
from ...steps.context import StepResult
from ..prune.options import PruneOptions
from ..prune.runner import prune
from .attention import check_maps
from .checks import check_sizes
from .keep_sparsity import sparsity_keeper
from .lora import adapted_matrices, lora_adapters
from .options import DistillOptions, LoraOptions, StudentFrom
from .packed_base import check_packed, load_packed
from .qat import CENTRED, FakeQuantizedStudent, check_widths, starting_integers
from .training_setup import TrainingSetup

__all__ = [
    "PACKED_HINT",
    "Student",
    "StudentSource",
    "check_trainable",
    "find_student",
    "load_student",
    "trainable_weights",
]

PACKED_HINT = (
    "distill first, then quantize; or train on its grid with `qat`, or adapters with `lora`"
)


@dataclass(frozen=True)
class StudentSource:
    """Checkpoint that a student is loaded from."""

    folder: Path
    provenance: dict[str, Any]
    """What the output's edgewright.json says of it."""
    notes: list[str] = field(default_factory=list[str])


def find_student(setup: TrainingSetup, source: Path, made: Path) -> StudentSource:
    """Return the student's checkpoint; prune another model to make it, if the options say so.

    Args:
        setup: of the distillation.
        source: the step's input, which is the student by default.
        made: empty directory for a pruned student.
    """
    options = setup.options
    context = setup.context
    if isinstance(options.student, StudentFrom):
        cut = PruneOptions(**options.student.model_dump(exclude={"source"}))
        model = context.resolve(options.student.source)
        result = setup.processes.on_main(lambda: prune(cut, model, made, context)) or StepResult()
        return StudentSource(
            made,
            {"student_cut": result.details.get("kept_layers")},
            [f"student: {note}" for note in result.notes],
        )
    folder = context.resolve(options.student) if options.student else source
    return StudentSource(folder, {"student": content_hash(folder)})


def check_trainable(student: Path, options: DistillOptions, teacher: Path | None) -> Architecture:
    """Check, before anything is loaded, that a student can be trained with these options.

    Returns:
        The student's architecture.

    Raises:
        UsageError: the student is packed without `qat` or `lora`, or a layer or matrix is unknown.
        Refused: the student is larger than its teacher, or does not fit the grid or the adapters.
    """
    architecture = read_architecture(student)
    packed = quantization(architecture.config) is not None
    if teacher:
        larger = read_architecture(teacher)
        check_sizes(larger, architecture, options.stages)
        for stage in options.stages:
            if stage.attention:
                check_maps(larger, architecture, stage.layers, options.seq_len)
    if packed and not options.qat and not options.lora:
        raise UsageError(f"{student}: a packed checkpoint cannot be trained", PACKED_HINT)
    if options.lora:
        if packed:
            check_packed(student)
        adapted_matrices(architecture, options.lora)
    if options.qat:
        check_widths(options.qat, architecture, str(student))
    return architecture


@dataclass
class Student:
    """A student in memory."""

    folder: Path
    architecture: Architecture
    model: Any
    """The causal language model; a new one after a stage with sharded weights."""
    stays_packed: bool
    """Whether its linear layers stay packed, below adapters."""
    restore_zeros: Callable[[], None] | None
    """Sets the zeros of a 2:4 sparse student back; None for a dense student."""
    fake_quantized: FakeQuantizedStudent | None = None

    def fake_quantize(self, setup: TrainingSetup) -> None:
        """Fake-quantize the weights, if `qat` asks for it.

        The grid is that of the checkpoint `scales_from`, that of the student if it is packed, or
        that of rounding to nearest.
        """
        options = setup.options.qat
        if options is None:
            return
        own = self.folder if quantization(self.architecture.config) else None
        packed = setup.context.resolve(options.scales_from) if options.scales_from else own
        start = starting_integers(options, self.model, self.architecture, packed)
        centred = 0.0 if packed is None else CENTRED
        self.fake_quantized = FakeQuantizedStudent(self.model, self.architecture, start, centred)

    def after_step(self) -> None:
        """Restore what an optimizer step must not change: zeros, and weights within their grid."""
        if self.restore_zeros:
            self.restore_zeros()
        if self.fake_quantized:
            self.fake_quantized.clamp_to_grid()

    def stored_state(self) -> dict[str, Tensor]:
        """Return the tensors as the checkpoint stores them: tied ones once, in its type."""
        dtype = stored_dtype(self.architecture.config)
        tied = tied_names(self.model)
        return self.architecture.stored(
            {
                k: v.detach().cpu().to(dtype)
                for k, v in self.model.state_dict().items()
                if k not in tied
            }
        )


def load_student(folder: Path, architecture: Architecture, setup: TrainingSetup) -> Student:
    """Load a student; its linear layers stay packed if it is packed and adapters are trained."""
    stays_packed = bool(setup.options.lora and quantization(architecture.config))
    model = load_packed(folder, setup.device) if stays_packed else load_model(folder, setup.device)
    restore_zeros = sparsity_keeper(model, architecture, folder)
    return Student(folder, architecture, model, stays_packed, restore_zeros)


@contextmanager
def trainable_weights(
    student: Student, lora: LoraOptions | None, notes: list[str]
) -> Iterator[None]:
    """Train all weights in the block, or only adapters that are merged when it ends.

    Args:
        student: changed in place.
        lora: the adapters; None: train all weights.
        notes: gets a line about adapters or sparsity.

    Raises:
        Refused: adapters on a sparse student.
    """
    sparse = student.restore_zeros is not None
    if lora is None:
        if sparse:
            notes.append("the student is 2:4 sparse and stays so: its zeros are not trained")
        yield
        return
    if sparse:
        raise Refused(
            "the student is 2:4 sparse: merging adapters adds a dense matrix and would fill its "
            "zeros",
            "train all weights (leave --lora out), or recover first and make it sparse afterwards",
        )
    architecture = student.architecture
    dtype = stored_dtype(architecture.config)
    with lora_adapters(student.model, architecture, lora, dtype) as count:
        names = ", ".join(name.rpartition(".")[2] for name in adapted_matrices(architecture, lora))
        notes.append(
            f"adapters of rank {lora.r} on {names}, merged: {count:,} parameters trained, "
            f"{architecture.parameters:,} in the student"
        )
        yield
