"""Distillation options: teacher, student, data, stages, and which weights are trained."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from ...checkpoints.scheme import Scheme
from ...data.rows import BadRows
from ...steps.options import AUTO, Calibration, Cli, shared
from ...steps.panels import Panels
from ...steps.places import Reads, Writes
from ...steps.strict import STRICT
from ..prune.options import PruneOptions
from .stage_options import Divergence, EarlyStopOptions, Stage, StageFlags, usual_steps

__all__ = [
    "DistillOptions",
    "Divergence",
    "EarlyStopOptions",
    "LoraOptions",
    "QatOptions",
    "Stage",
    "StudentFrom",
    "TeacherCacheOptions",
    "Tracker",
]

Tracker = Literal["tensorboard", "trackio", "wandb"]
LAST_GOOD = "last-good"
"""Ending of the directory beside an output that has the last student whose loss was finite."""


class LoraOptions(BaseModel):
    """Which matrices get low-rank adapters, and of which size."""

    model_config = STRICT
    panels: ClassVar = Panels("Adapters (LoRA)")

    r: int = Field(default=16, gt=0, description="rank of the adapters")
    alpha: Annotated[int, Cli(strict=True)] = Field(
        default=32, gt=0, description="LoRA alpha; adapters are scaled by alpha / rank"
    )
    targets: Annotated[tuple[str, ...] | None, Cli(separator=",", strict=True)] = Field(
        default=None,
        min_length=1,
        description="matrices of a decoder layer that get adapters; default: queries and values",
    )


class QatOptions(BaseModel):
    """Quantization-aware training: the grid that weights are rounded to while they are trained."""

    model_config = STRICT
    panels: ClassVar = Panels("Quantization-aware training")

    bits: Literal[2, 4, 8] = Field(default=4, description="bits per weight")
    group_size: int = Field(
        default=128, description="input channels that share a scale: 32, 64, 128, or -1 for all"
    )
    sym: Annotated[bool, Cli("--qat-sym/--qat-asym")] = Field(
        default=True, description="zero point in the middle of the range, as Jetson kernels need"
    )
    scales_from: Annotated[str | None, Cli("--scales-from", strict=True), Reads()] = Field(
        default=None,
        description="quantized checkpoint of the same student, or the step that made it, to start "
        "from; default: round to nearest",
    )

    @property
    def scheme(self) -> Scheme:
        """The same as a scheme of the layouts."""
        return Scheme(self.bits, self.group_size, self.sym)


class TeacherCacheOptions(BaseModel):
    """Where a teacher's logits are kept, and how many per token."""

    model_config = STRICT
    panels: ClassVar = Panels("Teacher's logits on disk")

    path: Annotated[str, Writes("cache")] = Field(
        description="directory; created if it does not exist, completed if rows are missing"
    )
    top_k: Annotated[int, Cli("--top-k")] = Field(
        default=64,
        gt=0,
        description="largest logits that are kept per token; all of them from the size of the "
        "vocabulary on",
    )


class StudentFrom(PruneOptions):
    """A student made by pruning another model: all options of the prune step."""

    source: Annotated[str, Reads()] = Field(
        alias="from", description="a step's name, a directory or a hub id"
    )


def _usual_stages(known: dict[str, Any]) -> tuple[Stage, ...]:
    steps = usual_steps(
        taught=known.get("teacher") is not None, cached=bool(known.get("teacher_cache"))
    )
    return tuple(
        Stage.model_validate({"loss": loss, "steps": count}) for loss, count in steps.items()
    )


class DistillOptions(BaseModel):
    """Which student learns from which teacher, on which data, in which stages."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "Training",
        common=("teacher", "data"),
        expert=("bad_rows", "accumulate", "checkpoint_layers", "save_every", "bf16"),
    )

    teacher: Annotated[str | None, Cli(required=True), Reads()] = Field(
        default="baseline",
        description="the model that teaches: a step's name, a directory or a hub id; "
        "none: train on the data alone",
    )
    student: Annotated[str | StudentFrom | None, Cli(hidden=True), Reads()] = Field(
        default=None,
        description="the model that is trained, or how to prune one; default: the step's input",
    )
    data: Annotated[str, Reads()] = Field(
        default=AUTO,
        description="SOURCE to train on; auto: for the built-in model its task "
        "(builtin:reasoning), for others it must be given",
    )
    bad_rows: BadRows = shared(Calibration, "bad_rows")
    hold_out: int = Field(
        default=0,
        ge=0,
        description="rows at the end reserved for evaluation; of built-in data, rows of another "
        "seed",
    )
    seq_len: int = Field(default=256, gt=1, description="tokens per row of training data")
    batch_size: int = Field(
        default=16, gt=0, description="rows per optimizer step, all processes together"
    )
    teacher_cache: Annotated[TeacherCacheOptions | None, Cli(switch="path")] = Field(
        default=None,
        description="keep the teacher's largest logits on disk, for this run and later ones, so "
        "that the teacher need not be in memory beside the student",
    )
    stages: Annotated[tuple[Stage, ...], Cli(flags=StageFlags)] = Field(
        default_factory=_usual_stages, min_length=1, description="stages of training, in order"
    )
    lora: Annotated[LoraOptions | None, Cli(switch="r", off=0)] = Field(
        default=None,
        description="train low-rank adapters (LoRA) and merge them at the end, instead of "
        "training all weights",
    )
    qat: Annotated[QatOptions | None, Cli(switch="bits", off=0)] = Field(
        default=None,
        description="train with fake-quantized weights (QAT) and write them quantized",
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description="muon: orthogonalized steps for matrices, which needs fewer steps for the same "
        "loss, and AdamW for the rest",
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="parts that a batch is split into, one after the other, to save memory",
    )
    checkpoint_layers: bool = Field(
        default=False,
        description="compute activations again in the backward pass, to save memory",
    )
    save_every: int = Field(
        default=100,
        gt=0,
        description="steps between two saves of the state that an interrupted run resumes from",
    )
    tracker: Tracker | None = Field(
        default=None,
        description="write training curves for this tool to a folder beside the output; nothing "
        "is sent",
    )
    bf16: bool | None = Field(
        default=None,
        description="matrix products in bfloat16; default: if the processor supports it",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _nobody(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("stages")
    @classmethod
    def _taught(cls, stages: tuple[Stage, ...], info: ValidationInfo) -> tuple[Stage, ...]:
        orphans = [stage.loss for stage in stages if stage.loss != "labels"]
        if orphans and info.data.get("teacher", "") is None:
            raise ValueError(
                f"`{orphans[0]}` needs a teacher, and there is none: name one, or use the loss "
                "`labels`"
            )
        return stages

    @model_validator(mode="after")
    def _cached(self) -> DistillOptions:
        if self.teacher_cache and not any(stage.loss == "logits" for stage in self.stages):
            raise ValueError("a teacher cache holds logits, and no stage uses them: leave it out")
        if self.teacher_cache and any(stage.on_policy for stage in self.stages):
            raise ValueError(
                "a teacher cache holds the data's rows, not what a student will write: leave it "
                "or `on_policy` out"
            )
        if self.teacher_cache and any(stage.loss == "hidden" for stage in self.stages):
            raise ValueError(
                "a teacher cache holds no hidden states: align them in an earlier step, or leave "
                "the stage `hidden` out"
            )
        return self

    @model_validator(mode="after")
    def _has_held_out_rows(self) -> DistillOptions:
        if not self.hold_out and any(stage.early_stop for stage in self.stages):
            raise ValueError(
                "`early_stop` measures on held-out rows, and there are none: set their number "
                "with `hold_out`"
            )
        return self

    @model_validator(mode="after")
    def _no_adapters(self) -> DistillOptions:
        if self.qat and self.lora:
            raise ValueError(
                "`qat` and `lora` exclude each other: adapters are trained beside the weights, and "
                "rounding the merged weights would undo what they learned"
            )
        return self

    def data_of(self, stage: Stage) -> str:
        """The source that a stage trains on."""
        return stage.data or self.data
