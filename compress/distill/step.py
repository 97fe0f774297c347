"""The distill step: its place in recipes and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...models import require_expressible
from ...steps.state import State, float_precision
from ...steps.step import FOUNDATION, Cost, Inputs, PlanContext, Smaller, Step
from ..prune.step import pruned_state
from .options import DistillOptions, LoraOptions, StudentFrom

if TYPE_CHECKING:
    from ...steps.context import StepContext, StepResult

__all__ = ["DistillStep"]

OVERHEAD = 120 << 20
"""Bytes for the tokenizer and the allocator's reserve."""
LOGITS_BYTES = 5 * 2**24
"""Memory for logits, which are computed in chunks."""


class DistillStep(Step[DistillOptions]):
    """Train a student on a teacher, on the data, or on both."""

    kind = "distill"
    Options = DistillOptions
    done = "distilled from another model"
    multi_process = True

    def code(self, options: DistillOptions) -> tuple[str, ...]:
        """The training code, pruning for a student cut from a model, and the grids of QAT."""
        return (
            *FOUNDATION,
            "compress/calibration",
            "compress/distill",
            "compress/prune",
            "compress/quantize",
        )

    def inputs(self, options: DistillOptions) -> Inputs:
        """Teacher, student, the checkpoint that scales are from, and the data of every stage."""
        student = options.student
        names = {
            options.teacher,
            student.source if isinstance(student, StudentFrom) else student,
            options.qat.scales_from if options.qat else None,
        }
        models = frozenset(name for name in names if name)
        return Inputs(models, frozenset(options.data_of(stage) for stage in options.stages))

    def calibrates(self, options: DistillOptions) -> bool:
        """Only a student that is cut from a model needs calibration text."""
        student = options.student
        return isinstance(student, StudentFrom) and student.needs_calibration

    def with_data(self, options: DistillOptions, named: str, source: str) -> DistillOptions:
        """The options with another data source, also in the stages."""
        stages = tuple(
            stage.model_copy(update={"data": source}) if stage.data == named else stage
            for stage in options.stages
        )
        data = source if options.data == named else options.data
        return options.model_copy(update={"data": data, "stages": stages})

    def settled(self, options: DistillOptions, source: State, plan: PlanContext) -> DistillOptions:
        """The options with the budget of a cut student turned into shares."""
        student = options.student
        if not isinstance(student, StudentFrom):
            return options
        fitted = plan.fit(student, plan.state(student.source))
        return options.model_copy(update={"student": fitted})

    def after(self, options: DistillOptions, source: State, plan: PlanContext) -> State:
        """The trained student."""
        student = _student(options, source, plan)
        if options.teacher:
            _check_pair(options, plan.state(options.teacher), student)
        if options.qat:
            return _quantized(options, student, plan.name)
        if not student.precision.startswith("int"):
            return student
        if options.lora is None:
            from .student import PACKED_HINT  # late: torch and transformers take seconds

            raise UsageError(f"{plan.name}: a packed checkpoint cannot be trained", PACKED_HINT)
        model = student.architecture
        require_expressible(model, "qlora", plan.name)
        return State(model, float_precision(model.config))  # adapters are merged

    def cost(
        self, options: DistillOptions, source: State, result: State, plan: PlanContext
    ) -> Cost:
        """The student with gradients and moments, the teacher beside it, and all passes."""
        teacher = plan.state(options.teacher) if options.teacher else None
        teacher_bytes = 4.0 * teacher.parameters if teacher else 0.0
        teacher_active = teacher.active_parameters if teacher else 0
        # Frozen weights need no gradient, no moments and no product for the gradient.
        bytes_each = 4 if options.lora else 16
        passes = 4.0 if options.lora else 6.0
        bytes_each += 5 if options.qat else 0  # the fake-quantized weight, the first integers
        batch = options.batch_size * options.seq_len
        vocab_size = source.architecture.vocab_size
        student_bytes = bytes_each * result.parameters + 4.0 * min(
            3 * batch * vocab_size, LOGITS_BYTES
        )
        student_bytes += _activation_bytes(options, result)
        ram = (
            max(teacher_bytes, student_bytes)
            if options.teacher_cache
            else teacher_bytes + student_bytes
        )
        trained = sum(stage.steps for stage in options.stages) * batch
        generated = sum(stage.steps * stage.on_policy for stage in options.stages) * batch
        operations = (
            trained * (passes * result.active_parameters + 2.0 * teacher_active)
            + 2.0 * generated * result.active_parameters
        )
        return Cost(OVERHEAD + ram, operations)

    def smaller(self, options: DistillOptions, plan: PlanContext) -> tuple[Smaller, ...]:
        """A batch in parts, activations computed again, smaller batches, adapters."""
        rows = options.batch_size
        changes = [
            Smaller(f"--accumulate {rows}", {"accumulate": rows}),
            Smaller("--checkpoint-layers", {"checkpoint_layers": True}),
            Smaller("--batch-size 1", {"batch_size": 1, "accumulate": 1}),
        ]
        if options.seq_len >= 8:
            shorter = options.seq_len // 4
            changes.append(Smaller(f"--seq-len {shorter}", {"seq_len": shorter}))
        if options.qat is None and options.lora is None:
            changes.append(Smaller("--lora 16", {"lora": LoraOptions()}))
        return tuple(changes)

    def run(
        self, options: DistillOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Train, and write the student."""
        from .runner import distill

        return distill(options, source, out, context)


def _activation_bytes(options: DistillOptions, student: State) -> float:
    """What a backward pass keeps of the rows that are computed at a time.

    Of a layer these are the inputs of its norms and products and, about twice, the outputs of its
    linear layers: for rotations and attention, and around the activation. In bfloat16 most have two
    bytes. With `checkpoint_layers` only the input of each layer is kept, and one is computed again.
    """
    from ...checkpoints.compute_dtype import uses_bf16  # late: torch takes seconds

    model = student.architecture
    times = model.experts.per_token if model.experts else 1
    outputs = sum(linear.out_features for linear in model.linear_counts())
    one = 6 * model.hidden_size + 2 * times * outputs
    layers = len(model.layers)
    values = one + layers * model.hidden_size if options.checkpoint_layers else one * layers
    width = 2.6 if uses_bf16(options.bf16, "cpu") else 4.0
    return width * max(1, options.batch_size // options.accumulate) * options.seq_len * values


def _student(options: DistillOptions, source: State, plan: PlanContext) -> State:
    """The student before training."""
    if isinstance(options.student, StudentFrom):
        return pruned_state(options.student, plan.state(options.student.source))
    return plan.state(options.student) if options.student else source


def _check_pair(options: DistillOptions, teacher: State, student: State) -> None:
    """Refuse a student that is larger than its teacher, and layers that cannot be aligned."""
    from .attention import check_maps
    from .checks import check_sizes

    larger = teacher.architecture
    smaller = student.architecture
    check_sizes(larger, smaller, options.stages)
    for stage in options.stages:
        if stage.attention:
            check_maps(larger, smaller, stage.layers, options.seq_len)


def _quantized(options: DistillOptions, student: State, name: str) -> State:
    """The student trained with fake-quantized weights, once it is clear that they fit the grid."""
    from .qat import check_widths

    assert options.qat
    check_widths(options.qat, student.architecture, name)
    return replace(
        student,
        precision=f"int{options.qat.bits}",
        group_size=options.qat.group_size,
        sym=options.qat.sym,
    )
