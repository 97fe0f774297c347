"""Prune options: what to remove, by which criterion, and limits that the pruned model must meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from ...steps.options import Cli
from ...steps.panels import Panels
from ...steps.strict import STRICT
from .criteria import CRITERIA

__all__ = ["Budget", "PruneOptions", "SparsityMethod"]

if TYPE_CHECKING:
    CriterionName = str
else:  # the names are those of the files in criteria/, which no type checker can know
    CriterionName = Literal[tuple(CRITERIA)]
SparsityMethod = Literal["sparsegpt", "magnitude"]


def _bytes(megabytes: float) -> int:
    return int(float(megabytes) * 1e6)


def _criterion_help() -> str:
    """The help of `criterion`, with a few words on each of them."""
    each = "; ".join(f"{name}: {criterion.description}" for name, criterion in CRITERIA.items())
    at_random = " or ".join(name for name, criterion in CRITERIA.items() if criterion.at_random)
    return (
        f"measure of importance; {each}. Experts are ranked by use and output, unless {at_random}"
    )


class Budget(BaseModel):
    """Limits to meet by removing equal shares of heads and FFN neurons, as small as possible."""

    model_config = STRICT
    panels: ClassVar = Panels("Until a budget is met")

    parameters: Annotated[int | None, Cli("--max-parameters")] = Field(
        default=None,
        gt=0,
        description="remove heads and FFN neurons until at most this many parameters are left",
    )
    memory_bytes: Annotated[int | None, Cli("--max-memory-mb", takes=float, convert=_bytes)] = (
        Field(
            default=None,
            gt=0,
            description="remove heads and FFN neurons until the model takes at most this much "
            "memory on the target, KV cache included",
        )
    )
    decode_tok_s: Annotated[float | None, Cli("--min-tok-s")] = Field(
        default=None,
        gt=0,
        description="remove heads and FFN neurons until the target is predicted to generate at "
        "least this many tokens per second",
    )
    over: Annotated[tuple[Literal["heads", "ffn"], ...], Cli(separator=",")] = Field(
        default=("heads", "ffn"), min_length=1, description="what the budget may remove"
    )
    target: Annotated[str | None, Cli(hidden=True)] = Field(
        default=None, description="device of the limits; default: the recipe's target"
    )
    precision: str = Field(
        default="int4", description="precision in which the device will run the model"
    )
    context: int = Field(default=2048, gt=0, description="tokens in the KV cache on the device")


class PruneOptions(BaseModel):
    """What to remove and by which criterion."""

    model_config = STRICT
    panels: ClassVar = Panels(
        "What to remove, and how", common=("heads", "ffn", "layers", "experts", "criterion")
    )

    heads: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of query heads to remove from every key/value group",
    )
    kv_heads: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of key/value heads to remove, each with its query heads",
    )
    ffn: float = Field(default=0.0, ge=0, lt=1, description="share of FFN neurons to remove")
    layers: int = Field(
        default=0,
        ge=0,
        description="number of layers to remove, those of least block influence first",
    )
    experts: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of experts to remove from every mixture-of-experts layer",
    )
    heads_threshold: float | None = Field(
        default=None,
        gt=0,
        description="remove the share of heads whose importance is below this times the mean of "
        "their layer",
    )
    ffn_threshold: float | None = Field(
        default=None,
        gt=0,
        description="remove the share of FFN neurons whose importance is below this times the "
        "mean of their layer",
    )
    budget: Budget | None = Field(
        default=None,
        description="remove the smallest shares of heads and FFN neurons that meet these limits",
    )
    merge_kv: int | None = Field(
        default=None,
        gt=0,
        description="before pruning, average the key/value heads into this many (MHA to GQA)",
    )
    merge: Literal["aligned", "mean"] = Field(
        default="aligned",
        description="how key/value heads are averaged; aligned: rotate them towards each other "
        "first; mean: as they are",
    )
    criterion: CriterionName = Field(
        default="taylor",
        description=_criterion_help(),
    )
    compensate: bool = Field(
        default=True,
        description="refit the remaining weights by least squares, to replace what was removed",
    )
    sparsity: Literal["2:4"] | None = Field(
        default=None,
        description="after pruning, set two of every four weights in a row to zero; "
        "see docs/sparsity.md",
    )
    sparsity_method: SparsityMethod = Field(
        default="sparsegpt",
        description="how these two weights are chosen; magnitude is the baseline to beat",
    )

    @model_validator(mode="after")
    def _one_way(self) -> PruneOptions:
        for share, threshold in (("heads", "heads_threshold"), ("ffn", "ffn_threshold")):
            if getattr(self, share) and getattr(self, threshold) is not None:
                raise _misused(f"give {share} or {threshold}, not both", share)
        if self.budget and (self.heads or self.ffn or self.heads_threshold or self.ffn_threshold):
            raise _misused(
                "a budget sets the shares of heads and FFN neurons: leave their shares and "
                "thresholds out",
                "budget",
            )
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether the result depends on the calibration text."""
        scored = CRITERIA[self.criterion].needs_calibration or self.layers or self.experts
        return bool(
            (self.removes and (scored or self.compensate))
            or (self.merge_kv is not None and self.merge == "aligned")
            or (self.sparsity and self.sparsity_method == "sparsegpt")
        )

    @property
    def removes(self) -> bool:
        """Whether the shapes of the model shrink, apart from merged key/value heads."""
        shares = (self.heads, self.kv_heads, self.ffn, self.layers, self.experts)
        return any((*shares, self.heads_threshold, self.ffn_threshold, self.budget))


def _misused(message: str, at: str) -> PydanticCustomError:
    return PydanticCustomError("prune_options", "{message}", {"message": message, "at": (at,)})
