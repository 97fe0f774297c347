"""What a quantize step can be told."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...layouts import Scheme

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
    bits: Literal[4, 8] = Field(default=4, description="bits of a weight; 8 for int8 and smoothquant")
    group_size: int = Field(default=128, description="input channels that share a scale; -1 for all")
    sym: bool = Field(default=True, description="zero point in the middle; what Jetson kernels need")
    act_order: bool = Field(default=True, description="static act-order: energetic columns first, groups stay contiguous")
    damp: float = Field(default=0.005, gt=0, description="share of the mean Hessian diagonal added to it")
    refine: int = Field(default=1, ge=0, description="times that scales and integers are improved in turn after GPTQ; 0: the paper's GPTQ")
    scaling: Literal["none", "awq", "smoothquant"] = Field(
        default="none",
        description="scales folded into what is before a layer, ahead of rounding; by default awq for awq, smoothquant for 8 bits",
    )
    alpha: float = Field(default=0.5, ge=0, le=1, description="SmoothQuant: how much of the activations' range moves to the weights")
    format: Literal["gptq", "awq", "compressed-tensors", "modelopt"] = Field(
        default="gptq", description="layout on disk; awq for method awq; compressed-tensors for int8, modelopt for smoothquant"
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
            implied |= {"bits": 8, "group_size": -1, "format": W8A8[method], "scaling": "smoothquant"}
        return implied | values

    @model_validator(mode="after")
    def _consistent(self) -> QuantizeOptions:
        if self.method in W8A8:
            if (self.bits, self.group_size, self.sym) != (8, -1, True):
                raise ValueError(
                    f"method {self.method} rounds to 8 bits, symmetric, a scale an output channel: leave bits, group_size and sym out"
                )
            if self.format != W8A8[self.method]:
                raise ValueError(f"method {self.method} is written as {W8A8[self.method]}: leave format out")
        elif self.format not in ("gptq", "awq"):
            raise ValueError(f"format {self.format} is for weights and activations in 8 bits: use method int8 or smoothquant")
        elif self.format == "awq" and self.bits != 4:
            raise ValueError("the awq layout holds 4-bit weights: use bits 4, or format gptq")
        if self.method == "awq" and self.scaling == "none":
            raise ValueError("method awq without scaling is plain rounding: use method rtn, or leave scaling out")
        if self.method == "smoothquant" and self.scaling != "smoothquant":
            raise ValueError("method smoothquant goes with scaling smoothquant: leave scaling out")
        return self

    @property
    def rounds_activations(self) -> bool:
        """Whether what enters a packed layer is rounded as well."""
        return self.method in W8A8

    def scheme(self, name: str) -> Scheme | None:
        """What becomes of the linear layer of this full name; None if it stays in floating point."""
        return Scheme(self.bits, self.group_size, self.sym)
