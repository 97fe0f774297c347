"""What a quantize step can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ...layouts import Scheme

__all__ = ["QuantizeOptions"]


class QuantizeOptions(BaseModel):
    """How weights are rounded and stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["gptq", "rtn"] = Field(default="gptq", description="gptq, or rtn: plain rounding, the baseline to beat")
    bits: Literal[4, 8] = Field(default=4, description="bits of a weight")
    group_size: int = Field(default=128, description="input channels that share a scale; -1 for all")
    sym: bool = Field(default=True, description="zero point in the middle; what Jetson kernels need")
    act_order: bool = Field(default=True, description="static act-order: energetic columns first, groups stay contiguous")
    damp: float = Field(default=0.005, gt=0, description="share of the mean Hessian diagonal added to it")
    refine: int = Field(default=1, ge=0, description="times that scales and integers are improved in turn after GPTQ; 0: the paper's GPTQ")

    def scheme(self, name: str) -> Scheme | None:
        """What becomes of the linear layer of this full name; None if it stays in floating point."""
        return Scheme(self.bits, self.group_size, self.sym)
