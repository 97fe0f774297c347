"""Options of the traces that a teacher writes: sampling, and which chains of thought are kept."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from ...steps.panels import Panels
from ...steps.places import Reads
from ...steps.strict import STRICT

__all__ = ["ChoiceRules", "TracesOptions"]


class ChoiceRules(BaseModel):
    """Which chains of thought are kept."""

    model_config = STRICT
    panels: ClassVar = Panels("Which chains are kept")

    accept: Literal["both", "verified", "majority"] = Field(
        default="both",
        description="keep chains whose answer the source confirms (verified), the majority vote "
        "elects (majority), or both",
    )
    agreement: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a question's chains that must agree to make a majority",
    )
    keep: int = Field(
        default=4, gt=0, description="chains kept per question, those of lowest entropy first"
    )
    min_tokens: int = Field(default=0, ge=0, description="shortest chain to keep, in tokens")
    max_tokens: int | None = Field(
        default=None,
        gt=0,
        description="longest chain to keep, in tokens; default: as long as the model may write",
    )
    max_entropy: float | None = Field(
        default=None,
        gt=0,
        description="highest mean entropy of a chain to keep, in nats per token; default: any",
    )


class TracesOptions(ChoiceRules):
    """Which questions a teacher answers, and how it samples its chains of thought."""

    model_config = STRICT
    panels: ClassVar = Panels("Sampling", common=("prompts", "limit", "chains"))

    prompts: Annotated[str, Reads()] = Field(
        default="builtin:reasoning",
        description="questions with answers: builtin:reasoning, or jsonl:FILE with the fields "
        "question and answer",
    )
    limit: int = Field(default=1000, gt=0, description="questions at most")
    chains: int = Field(default=8, gt=0, description="chains per question")
    temperature: float = Field(default=0.7, ge=0, description="sampling temperature; 0: greedy")
    top_p: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="nucleus sampling: share of the probability that tokens are drawn from",
    )
    max_new_tokens: int = Field(default=512, gt=0, description="longest chain in tokens")
