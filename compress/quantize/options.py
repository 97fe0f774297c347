"""What a quantize step can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ...layouts import Scheme
from .rules import Rule, Sensitivity, first_match

__all__ = ["QuantizeOptions"]


class QuantizeOptions(BaseModel):
    """How weights are rounded and stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["gptq", "rtn"] = Field(default="gptq", description="gptq, or rtn: plain rounding, the baseline to beat")
    bits: Literal[2, 3, 4, 8] = Field(default=4, description="bits of a weight")
    group_size: int = Field(default=128, description="input channels that share a scale; -1 for all")
    sym: bool = Field(default=True, description="zero point in the middle; what Jetson kernels need")
    act_order: Literal["static", "permuted", "none"] = Field(
        default="static",
        description="energetic columns first. static: groups stay consecutive channels; permuted: groups follow the order, and every "
        "layer has a g_idx that kernels must gather by (desc_act); none: columns as they come",
    )
    damp: float = Field(default=0.005, gt=0, description="share of the mean Hessian diagonal added to it")
    refine: int = Field(default=1, ge=0, description="times that scales and integers are improved in turn after GPTQ; 0: the paper's GPTQ")
    rules: tuple[Rule, ...] = Field(default=(), description="layers that are treated otherwise, by name; the first that matches counts")

    head_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None, description="quantize the head too, to so many bits; a tied one is the embedding"
    )
    embedding_bits: Literal[2, 3, 4, 8] | None = Field(default=None, description="quantize the embedding too, to so many bits")

    sensitivity: Sensitivity | None = Field(default=None, description="measure first, and keep the worst matrices at more bits")

    @field_validator("act_order", mode="before")
    @classmethod
    def _said_as_switch(cls, value: object) -> object:
        """Earlier recipes switched the static order on or off."""
        return {True: "static", False: "none"}[value] if isinstance(value, bool) else value

    def keeping(self, schemes: Mapping[str, Scheme]) -> QuantizeOptions:
        """The same with the matrices of these names at the better bits of `sensitivity`; their groups stay."""
        assert self.sensitivity
        groups = {name: scheme.group_size if scheme.group_size != self.group_size else None for name, scheme in schemes.items()}
        bits = self.sensitivity.keep_bits
        kept = tuple(Rule.model_validate({"match": name, "bits": bits, "group_size": group}) for name, group in groups.items())
        return self.model_copy(update={"rules": (*kept, *self.rules)})

    @property
    def permuted(self) -> bool:
        """Whether groups follow the order of columns, so that layers have a `g_idx` of their own."""
        return self.method == "gptq" and self.act_order == "permuted"

    def scheme(self, name: str) -> Scheme | None:
        """What becomes of the linear layer of this full name; None if it stays in floating point."""
        rule = first_match(self.rules, name)
        return None if rule and rule.skip else self._ruled(rule)

    def table(self, name: str, bits: int | None) -> Scheme | None:
        """What becomes of the embedding or head of this full name; None if it stays in floating point.

        A rule is about it only if it names it in full: `*` means the layers.
        """
        rule = next((rule for rule in self.rules if rule.match == name), None)
        if (rule and rule.skip) or not (rule or bits):
            return None
        return self._ruled(rule, bits)

    def _ruled(self, rule: Rule | None, bits: int | None = None) -> Scheme:
        """The scheme of a layer that this rule, if any, is about."""
        changed = (rule.bits, rule.group_size) if rule else (None, None)
        return Scheme(changed[0] or bits or self.bits, changed[1] or self.group_size, self.sym)
