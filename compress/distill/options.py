"""What a distill step can be told: who teaches whom, in which stages, on what, and which weights learn."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ..prune.runner import PruneOptions
from .early_stop import EarlyStopOptions
from .lora import LoraOptions
from .losses import Divergence
from .qat import QatOptions
from .teacher_cache import TeacherCacheOptions
from .tracking import Tracker

__all__ = ["DistillOptions", "Stage", "StudentFrom"]


class Stage(BaseModel):
    """One stage of learning."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["hidden", "logits", "labels"] = Field(
        description="hidden-state MSE, KL on the logits, or cross-entropy with the data"
    )
    steps: int = Field(gt=0, description="optimizer steps")
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate; cosine to zero")
    divergence: Divergence = Field(
        default="forward",
        description="of the logits: forward KL, reverse KL, or js (Jensen-Shannon)",
    )
    temperature: float = Field(default=1.0, gt=0, description="of the KL")
    hard: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of cross-entropy with the data in the logits stage",
    )
    on_policy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the rows that the student continues itself, whose tokens the teacher then judges",
    )
    layers: tuple[tuple[int, int], ...] | None = Field(
        default=None,
        min_length=1,
        description="pairs of student and teacher layers to align, from 1 on; default: evenly over the depth",
    )
    attention: float = Field(
        default=0.0,
        ge=0,
        description="weight of the divergence of attention maps in the hidden stage, of the same pairs of layers",
    )
    data: str | None = Field(
        default=None, description="what this stage learns on; default: the step's data"
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="patterns of the names of parameters that do not learn: `model.embed*`",
    )
    early_stop: EarlyStopOptions | None = Field(
        default=None,
        description="end when the loss on held-out rows falls no more, and keep the weights of the lowest one",
    )

    @model_validator(mode="after")
    def _of_its_loss(self) -> Stage:
        if self.on_policy and self.loss != "logits":
            raise ValueError(
                f"`on_policy` lets the teacher judge what the student writes, by its logits: not in the stage `{self.loss}`"
            )
        if self.attention and self.loss != "hidden":
            raise ValueError(
                f"`attention` is aligned beside hidden states, in a stage `hidden`: not in the stage `{self.loss}`"
            )
        if self.on_policy and self.hard:
            raise ValueError(
                "`hard` takes tokens for right that with `on_policy` the student wrote: learn from data in a stage `labels`"
            )
        return self


class StudentFrom(PruneOptions):
    """A student made from another model by cutting it: whatever `prune` can do."""

    source: str = Field(alias="from", description="a step's name, a directory or a hub id")


def _usual_stages(known: dict[str, Any]) -> tuple[Stage, ...]:
    if known.get("teacher") is None:
        return (Stage(loss="labels", steps=500),)
    if known.get("teacher_cache"):  # which has no hidden states
        return (Stage(loss="logits", steps=400),)
    return (Stage(loss="hidden", steps=100), Stage(loss="logits", steps=400))


class DistillOptions(BaseModel):
    """Who teaches whom, on what, for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str | None = Field(
        default="baseline",
        description="a step's name, a directory or a hub id; none: learn from the data alone",
    )
    student: str | StudentFrom | None = Field(
        default=None, description="likewise, or how to make one; default: the step's input"
    )
    data: str = Field(default="builtin:reasoning", description="what to learn on")
    hold_out: int = Field(
        default=0,
        ge=0,
        description="rows at the data's end that are not learnt on; of built-in data, of another seed",
    )
    seq_len: int = Field(default=256, gt=1, description="tokens a packed row")
    batch_size: int = Field(default=16, gt=0, description="rows a step")
    teacher_cache: TeacherCacheOptions | None = Field(
        default=None,
        description="keep the teacher's largest logits on disk, so that it need not be in memory beside the student",
    )
    stages: tuple[Stage, ...] = Field(
        default_factory=_usual_stages, min_length=1, description="in this order"
    )
    lora: LoraOptions | None = Field(
        default=None,
        description="learn low-rank adapters, merged at the end; default: all weights learn",
    )
    qat: QatOptions | None = Field(
        default=None, description="learn with fake-quantized weights and write them packed"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw", description="muon: orthogonal steps for matrices, AdamW for the rest"
    )
    accumulate: int = Field(
        default=1,
        gt=0,
        description="parts that the rows of a step are taken in, one after the other",
    )
    checkpoint_layers: bool = Field(
        default=False,
        description="keep no activations within layers and compute them again for the gradient",
    )
    save_every: int = Field(
        default=100,
        gt=0,
        description="steps after which the state is kept for a run that is killed",
    )
    tracker: Tracker | None = Field(
        default=None,
        description="write curves for it, into a folder beside the output; nothing is sent",
    )
    bf16: bool | None = Field(
        default=None, description="bfloat16 matrix products; default: where the processor has them"
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
                f"`{orphans[0]}` needs a teacher, and there is none: name one, or use the loss `labels`"
            )
        return stages

    @model_validator(mode="after")
    def _cached(self) -> DistillOptions:
        if self.teacher_cache and not any(stage.loss == "logits" for stage in self.stages):
            raise ValueError(
                "a teacher cache holds logits, and no stage learns from them: leave it out"
            )
        if self.teacher_cache and any(stage.on_policy for stage in self.stages):
            raise ValueError(
                "a teacher cache knows the data's rows, not what a student will write: leave it or `on_policy` out"
            )
        if self.teacher_cache and any(stage.loss == "hidden" for stage in self.stages):
            raise ValueError(
                "a teacher cache holds no hidden states: align them in a step before, or leave the stage `hidden` out"
            )
        return self

    @model_validator(mode="after")
    def _watched(self) -> DistillOptions:
        if not self.hold_out and any(stage.early_stop for stage in self.stages):
            raise ValueError(
                "`early_stop` measures on rows that are held out, and none are: say how many with `hold_out`"
            )
        return self

    def data_of(self, stage: Stage) -> str:
        """What a stage learns on."""
        return stage.data or self.data

    @model_validator(mode="after")
    def _no_adapters(self) -> DistillOptions:
        if self.qat and self.lora:
            raise ValueError(
                "`qat` and `lora` exclude each other: adapters are learnt beside the weights, and rounding what they are merged into "
                "would undo what they learnt"
            )
        return self
