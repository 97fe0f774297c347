"""Options of the iterate step: how far to cut, in how many rounds, and how much loss is allowed."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Field, field_validator, model_validator

from ...steps.options import Cli
from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT
from ..distill.options import DistillOptions
from ..prune.options import PruneOptions

__all__ = ["INPUT", "IterateOptions", "RecoverOptions"]

INPUT = "input"
"""As a teacher: the uncut model."""


class RecoverOptions(DistillOptions):
    """The training of every round; its student is the model that the round pruned."""

    teacher: Annotated[str | None, Reads()] = Field(
        default=INPUT,
        description="the model that teaches; input: the unpruned model; otherwise as in distill",
    )

    @field_validator("student")
    @classmethod
    def _no_student(cls, student: Any) -> None:
        if student is not None:
            raise ValueError("the student is the model that each round prunes: leave it out")

    @field_validator("stages")
    @classmethod
    def _no_early_stop(cls, stages: Any) -> Any:
        if any(stage.early_stop for stage in stages):
            raise ValueError(
                "rounds are compared on the held-out rows, so no round may use these rows itself: "
                "leave `early_stop` out"
            )
        return stages

    @field_validator("tracker")
    @classmethod
    def _no_tracker(cls, tracker: Any) -> None:
        if tracker is not None:
            raise ValueError(
                "rounds run in a temporary directory, and the report shows their losses: "
                "leave `tracker` out"
            )

    @field_validator("qat")
    @classmethod
    def _no_qat(cls, qat: Any) -> None:
        if qat is not None:
            raise ValueError(
                "a packed model cannot be pruned in the next round: "
                "use `qat` in a distill step after the rounds"
            )


class IterateOptions(BaseModel):
    """How far to prune, in how many rounds, and how much loss is allowed."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "Measuring between the rounds", common=("rounds", "max_loss_increase")
    )

    rounds: int = Field(
        default=3, gt=0, description="rounds of pruning and training; the cut is spread over them"
    )
    prune: Annotated[
        PruneOptions, Cli(prefix="", skip=("budget", "heads_threshold", "ffn_threshold"))
    ] = Field(description="the cut from the input to the final size, spread over the rounds")
    recover: Annotated[RecoverOptions, Cli(prefix="", skip=("early_stop", "tracker", "qat"))] = (
        Field(default=RecoverOptions(), description="the training after every cut")
    )
    held_out: Annotated[str | None, Reads()] = Field(
        default=None,
        description="SOURCE to measure on; default: rows of the training data that are held out",
    )
    held_out_rows: int = Field(default=128, gt=0, description="held-out rows to measure on")
    max_loss_increase: float | None = Field(
        default=None,
        ge=0,
        description="keep the smallest model whose held-out loss rose by at most this much, "
        "in nats per token; default: keep the last",
    )

    @model_validator(mode="after")
    def _no_adapters_on_sparse(self) -> IterateOptions:
        if self.prune.sparsity and self.recover.lora:
            raise ValueError(
                "adapters cannot be merged into a sparse model: leave `lora` or `sparsity` out"
            )
        return self
