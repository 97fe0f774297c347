"""What a quantize step can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ...checkpoints.layouts import Scheme
from .rules import Rule, Sensitivity, first_match

__all__ = ["QuantizeOptions"]

W8A8 = {"int8": "compressed-tensors", "smoothquant": "modelopt"}
"""Methods that round activations too, and the only layout that says so for each."""


class QuantizeOptions(BaseModel):
    """How weights are rounded and stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["gptq", "rtn", "awq", "int8", "smoothquant"] = Field(
        default="gptq",
        description="gptq; awq: scaling and clipping by activations; rtn: plain rounding, the baseline to beat; int8: weights and "
        "activations in 8 bits, a scale a token; smoothquant: likewise, with activation scales fixed from the calibration data",
    )
    bits: Literal[2, 3, 4, 8] = Field(
        default=4, description="bits of a weight; 8 for int8 and smoothquant"
    )
    group_size: int = Field(
        default=128, description="input channels that share a scale; -1 for all"
    )
    sym: bool = Field(
        default=True, description="zero point in the middle; what Jetson kernels need"
    )
    act_order: Literal["static", "permuted", "none"] = Field(
        default="static",
        description="energetic columns first. static: groups stay consecutive channels; permuted: groups follow the order, and every "
        "layer has a g_idx that kernels must gather by (desc_act); none: columns as they come",
    )
    damp: float = Field(
        default=0.005, gt=0, description="share of the mean Hessian diagonal added to it"
    )
    refine: int = Field(
        default=1,
        ge=0,
        description="times that scales and integers are improved in turn after GPTQ; 0: the paper's GPTQ",
    )
    scaling: Literal["none", "awq", "smoothquant"] = Field(
        default="none",
        description="scales folded into what is before a layer, ahead of rounding; by default awq for awq, smoothquant for 8 bits",
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="SmoothQuant: how much of the activations' range moves to the weights",
    )
    format: Literal["gptq", "awq", "compressed-tensors", "modelopt"] = Field(
        default="gptq",
        description="layout on disk; awq for method awq; compressed-tensors for int8, modelopt for smoothquant",
    )
    rules: tuple[Rule, ...] = Field(
        default=(),
        description="layers that are treated otherwise, by name; the first that matches counts",
    )
    head_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None,
        description="quantize the head too, to so many bits; a tied one is the embedding",
    )
    embedding_bits: Literal[2, 3, 4, 8] | None = Field(
        default=None, description="quantize the embedding too, to so many bits"
    )
    hessian_tokens: int = Field(
        default=8,
        gt=0,
        description="tokens an input channel that GPTQ's Hessian is made of, drawn at random; more take longer",
    )
    bf16: bool | None = Field(
        default=None,
        description="run calibration rows through the layers in bfloat16; default: where the processor has it",
    )
    sensitivity: Sensitivity | None = Field(
        default=None, description="measure first, and keep the worst matrices at more bits"
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """What was not said follows from the method."""
        if not isinstance(values, dict):
            return values
        method, implied = values.get("method"), dict[str, Any]()
        if method == "awq":
            implied |= {"format": "awq", "scaling": "awq"}
        if method in W8A8:
            implied |= {
                "bits": 8,
                "group_size": -1,
                "format": W8A8[method],
                "scaling": "smoothquant",
            }
        return implied | values

    @model_validator(mode="after")
    def _consistent(self) -> QuantizeOptions:
        if self.method in W8A8:
            if (self.bits, self.group_size, self.sym) != (8, -1, True):
                raise ValueError(
                    f"method {self.method} rounds to 8 bits, symmetric, a scale an output channel: leave bits, group_size and sym out"
                )
            if self.format != W8A8[self.method]:
                raise ValueError(
                    f"method {self.method} is written as {W8A8[self.method]}: leave format out"
                )
        elif self.format not in ("gptq", "awq"):
            raise ValueError(
                f"format {self.format} is for weights and activations in 8 bits: use method int8 or smoothquant"
            )
        elif self.format == "awq" and self.bits != 4:
            raise ValueError("the awq layout holds 4-bit weights: use bits 4, or format gptq")
        if self.format != "gptq":
            self._check_plain()
        if self.method == "awq" and self.scaling == "none":
            raise ValueError(
                "method awq without scaling is plain rounding: use method rtn, or leave scaling out"
            )
        if self.method == "smoothquant" and self.scaling != "smoothquant":
            raise ValueError("method smoothquant goes with scaling smoothquant: leave scaling out")
        return self

    def _check_plain(self) -> None:
        """Only the GPTQ layout can say that some layers differ."""
        wants = {
            "act_order permuted": self.permuted,
            "rules other than skip": any(not rule.skip for rule in self.rules),
            "head_bits and embedding_bits": self.head_bits or self.embedding_bits,
            "sensitivity": self.sensitivity,
        }
        if found := [name for name, wanted in wants.items() if wanted]:
            raise ValueError(
                f"the layout {self.format} has no place for {', '.join(found)}: use format gptq, or leave it out"
            )

    @property
    def rounds_activations(self) -> bool:
        """Whether what enters a packed layer is rounded as well."""
        return self.method in W8A8

    @field_validator("act_order", mode="before")
    @classmethod
    def _said_as_switch(cls, value: object) -> object:
        """Earlier recipes switched the static order on or off."""
        return {True: "static", False: "none"}[value] if isinstance(value, bool) else value

    def keeping(self, schemes: Mapping[str, Scheme]) -> QuantizeOptions:
        """The same with the matrices of these names at the better bits of `sensitivity`; their groups stay."""
        assert self.sensitivity
        groups = {
            name: scheme.group_size if scheme.group_size != self.group_size else None
            for name, scheme in schemes.items()
        }
        bits = self.sensitivity.keep_bits
        kept = tuple(
            Rule.model_validate({"match": name, "bits": bits, "group_size": group})
            for name, group in groups.items()
        )
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
