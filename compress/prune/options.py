"""What a prune step can be asked for, and the sizes that a model then has."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ...errors import Refused
from ...models import Architecture, require_expressible
from .experts import kept_experts
from .importance import Criterion
from .selection import head_counts, neuron_count
from .two_four import SparsityMethod

__all__ = ["Budget", "PruneOptions", "merged_kv", "sizes_after"]


class Budget(BaseModel):
    """Limits to meet by removing equal shares of heads and FFN neurons, as small as will do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: int | None = Field(default=None, gt=0, description="at most so many parameters")
    memory_bytes: int | None = Field(
        default=None, gt=0, description="at most so much memory on the target, KV cache included"
    )
    decode_tok_s: float | None = Field(
        default=None,
        gt=0,
        description="at least so many tokens a second on the target, as predicted",
    )
    over: tuple[Literal["heads", "ffn"], ...] = Field(
        default=("heads", "ffn"), min_length=1, description="what may go"
    )
    target: str | None = Field(default=None, description="device; default: the recipe's")
    precision: str = Field(default="int4", description="in which the device will run the model")
    context: int = Field(default=2048, gt=0, description="tokens of KV cache on the device")


class PruneOptions(BaseModel):
    """What to cut and by which criterion."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
        description="how many layers to remove, those of least block influence first",
    )
    experts: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of experts to remove from every layer of a mixture",
    )
    heads_threshold: float | None = Field(
        default=None,
        gt=0,
        description="remove the share of heads that is below this times the mean",
    )
    ffn_threshold: float | None = Field(
        default=None,
        gt=0,
        description="remove the share of neurons that is below this times the mean",
    )
    budget: Budget | None = Field(
        default=None, description="remove the least shares of heads and FFN neurons that meet this"
    )
    merge_kv: int | None = Field(
        default=None, gt=0, description="first average the key/value heads into so many"
    )
    merge: Literal["aligned", "mean"] = Field(
        default="aligned", description="aligned: rotate the heads towards each other first"
    )
    criterion: Criterion = Field(
        default="taylor",
        description="how importance is measured; that of experts by use and output, or random",
    )
    compensate: bool = Field(
        default=True,
        description="refit the output projections by least squares to make up for what goes",
    )
    sparsity: Literal["2:4"] | None = Field(
        default=None,
        description="then zero two of every four inputs in what stays; see docs/sparsity.md",
    )
    sparsity_method: SparsityMethod = Field(
        default="sparsegpt", description="how those two are chosen"
    )

    @model_validator(mode="after")
    def _one_way(self) -> PruneOptions:
        for share, threshold in (("heads", "heads_threshold"), ("ffn", "ffn_threshold")):
            if getattr(self, share) and getattr(self, threshold) is not None:
                raise _misused(f"give {share} or {threshold}, not both", share)
        if self.budget and (self.heads or self.ffn or self.heads_threshold or self.ffn_threshold):
            raise _misused(
                "a budget decides about heads and FFN neurons by itself: leave their shares and thresholds out",
                "budget",
            )
        return self

    @property
    def removes(self) -> bool:
        """Whether anything is to go from the shapes, apart from what merging saves."""
        shares = (self.heads, self.kv_heads, self.ffn, self.layers, self.experts)
        return any((*shares, self.heads_threshold, self.ffn_threshold, self.budget))


def _misused(message: str, at: str) -> PydanticCustomError:
    return PydanticCustomError("prune_options", "{message}", {"message": message, "at": (at,)})


def sizes_after(options: PruneOptions, architecture: Architecture) -> dict[str, int]:
    """The sizes that stay in every layer when the shares of `options` go.

    Args:
        options: what to remove.
        architecture: of the uncut model.

    Returns:
        `heads`, `kv_heads`, `ffn` and, of a mixture, `experts`.

    Raises:
        Refused: a share has no legal count near it, or the model has nothing of the kind.
    """
    if options.sparsity:
        require_expressible(architecture, "2:4", "config.json")
    ffn = options.ffn or options.ffn_threshold or 0.0
    experts = kept_experts(architecture.experts, options.experts, ffn)
    have = architecture.attention_sizes
    sizes = {"heads": have.heads, "kv_heads": have.kv_heads}
    if options.heads or options.kv_heads:
        accepts = architecture.accepts_heads
        heads, kv_heads = head_counts(have, options.heads, options.kv_heads, accepts)
        sizes = {"heads": heads, "kv_heads": kv_heads}
    sizes["ffn"] = neuron_count(architecture.intermediate_size, options.ffn)
    return sizes | ({"experts": experts} if experts else {})


def merged_kv(architecture: Architecture, groups: int) -> Architecture:
    """The architecture of the model whose key/value heads were averaged into `groups`.

    Raises:
        Refused: the key/value heads do not divide into so many groups, or are so few already.
    """
    sizes = architecture.attention_sizes
    have = sizes.kv_heads
    legal = [n for n in range(1, have) if have % n == 0]
    if groups not in legal:
        raise Refused(
            f"{have} key/value heads cannot be merged into {groups}",
            f"possible: {', '.join(map(str, legal))}"
            if legal
            else "a single key/value head is the least there is",
        )
    return architecture.resized(
        heads=sizes.heads,
        kv_heads=groups,
        ffn=architecture.intermediate_size,
        layers=range(len(architecture.layers)),
    )
