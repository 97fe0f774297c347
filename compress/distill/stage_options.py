"""Options of one stage of distillation, and the flags that describe all stages at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, create_model, model_validator

from ...errors import UsageError
from ...steps.options import Cli
from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT

__all__ = ["Divergence", "EarlyStopOptions", "Stage", "StageFlags", "usual_steps"]

Divergence = Literal["forward", "reverse", "js"]


def _pair(text: str) -> tuple[int, int]:
    student, colon, teacher = text.partition(":")
    if not (colon and student.isdigit() and teacher.isdigit()):
        raise UsageError(
            f"--align-layers {text}: not STUDENT:TEACHER",
            "write two layer numbers, counted from 1, such as --align-layers 2:4",
        )
    return int(student), int(teacher)


class EarlyStopOptions(BaseModel):
    """When a stage ends before its last step."""

    model_config = STRICT
    panels: ClassVar = Panels("Early stopping")

    patience: int = Field(
        default=3, gt=0, description="measurements without a new lowest loss before the stage ends"
    )
    every: Annotated[int, Cli("--measure-every")] = Field(
        default=50, gt=0, description="steps between two measurements of the held-out loss"
    )


class Stage(BaseModel):
    """One stage of training: a loss and the number of steps."""

    model_config = STRICT

    loss: Literal["hidden", "logits", "labels"] = Field(
        description="hidden: mean squared error of hidden states; logits: KL divergence from the "
        "teacher; labels: cross-entropy with the data"
    )
    steps: int = Field(
        gt=0,
        description="optimizer steps; the learning rate rises from 0, so that the first of several "
        "changes nothing",
    )
    lr: float = Field(
        default=1e-3, gt=0, description="peak learning rate, which decays to zero (cosine)"
    )
    divergence: Divergence = Field(
        default="forward",
        description="divergence in the logits stage; forward: KL from the teacher; reverse: KL "
        "from the student; js: Jensen-Shannon",
    )
    temperature: float = Field(
        default=1.0, gt=0, description="temperature of the divergence in the logits stage"
    )
    hard: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="weight of cross-entropy with the data in the logits stage",
    )
    on_policy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of rows in the logits stage that the student continues itself, for the "
        "teacher to judge",
    )
    layers: Annotated[
        tuple[tuple[int, int], ...] | None, Cli("--align-layers", takes=str, convert=_pair)
    ] = Field(
        default=None,
        min_length=1,
        description="pairs of student and teacher layers to align in the hidden stage, counted "
        "from 1; default: spread evenly over the depth",
    )
    attention: float = Field(
        default=0.0,
        ge=0,
        description="weight of the divergence of attention maps in the hidden stage, beside the "
        "hidden states of the same layers",
    )
    data: Annotated[str | None, Reads()] = Field(
        default=None, description="SOURCE that this stage trains on; default: the step's data"
    )
    freeze: tuple[str, ...] = Field(
        default=(),
        description="name patterns of parameters that are not trained, such as `model.embed*`",
    )
    early_stop: Annotated[EarlyStopOptions | None, Cli(switch="patience", off=0)] = Field(
        default=None,
        description="end a stage when the loss on held-out rows stops falling, and keep the "
        "weights of the lowest loss",
    )

    @model_validator(mode="after")
    def _of_its_loss(self) -> Stage:
        if self.on_policy and self.loss != "logits":
            raise ValueError(
                "`on_policy` needs the teacher's logits for what the student writes: it has no "
                f"place in the stage `{self.loss}`"
            )
        if self.attention and self.loss != "hidden":
            raise ValueError(
                "`attention` is aligned beside hidden states, in a stage `hidden`: it has no "
                f"place in the stage `{self.loss}`"
            )
        if self.on_policy and self.hard:
            raise ValueError(
                "`hard` would train on tokens that the student wrote itself with `on_policy`: "
                "use a stage `labels` to learn from data"
            )
        return self


def usual_steps(*, taught: bool, cached: bool) -> dict[str, int]:
    """Steps of each loss where none are given.

    Args:
        taught: whether there is a teacher.
        cached: whether the teacher's logits come from a cache, which holds no hidden states.
    """
    if not taught:
        return {"labels": 500}
    return {"logits": 400} if cached else {"hidden": 100, "logits": 400}


OF_ONE_LOSS = {
    "hidden": ("layers", "attention"),
    "logits": ("divergence", "temperature", "hard", "on_policy"),
    "labels": (),
}
"""Settings of a stage that only one loss has."""
OF_EVERY_LOSS = ("lr", "freeze", "early_stop")


class _StageSteps(BaseModel):
    """Steps of at most one stage of each loss, in this order."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "Stages of training", common=("hidden_steps", "logit_steps", "label_steps", "lr")
    )

    hidden_steps: int | None = Field(
        default=None,
        ge=0,
        description="steps of the hidden stage (hidden states); default: 100 with a teacher, "
        "0 without one or with --teacher-cache",
    )
    logit_steps: int | None = Field(
        default=None,
        ge=0,
        description="steps of the logits stage (KL divergence); default: 400 with a teacher, "
        "0 without",
    )
    label_steps: int | None = Field(
        default=None,
        ge=0,
        description="steps of the labels stage (cross-entropy with the data); default: 500 "
        "without a teacher, 0 with one",
    )

    def expand(self, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The stages that these flags describe, in order.

        Args:
            options: what is given of the distill options, `teacher` and `teacher_cache` included.
        """
        given = self.model_dump(exclude_unset=True)
        usual = usual_steps(
            taught=options.get("teacher", "") not in (None, "none"),
            cached=bool(options.get("teacher_cache")),
        )
        counts = {
            "hidden": self.hidden_steps,
            "logits": self.logit_steps,
            "labels": self.label_steps,
        }
        steps = {
            loss: usual.get(loss, 0) if count is None else count for loss, count in counts.items()
        }
        return [
            {"loss": loss, "steps": count}
            | {name: given[name] for name in (*OF_EVERY_LOSS, *OF_ONE_LOSS[loss]) if name in given}
            for loss, count in steps.items()
            if count
        ]


StageFlags = create_model(
    "StageFlags",
    __base__=_StageSteps,
    **{  # pyright: ignore[reportArgumentType, reportCallIssue]
        name: (Stage.model_fields[name].annotation, Stage.model_fields[name])
        for name in ("lr", *OF_ONE_LOSS["logits"], *OF_ONE_LOSS["hidden"], "freeze", "early_stop")
    },
)
"""The flags of `distill` and `iterate` for their stages: steps of each loss, settings of all."""
