"""The state that all decoder layers of one quantize step share: options, journal and results."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...checkpoints.layouts import Scheme
from ..calibration.activation_buffer import Activations
from ..calibration.hessian import energy, spread
from .gptq import rtn
from .options import QuantizeOptions
from .resume_journal import Journal

__all__ = ["QuantizeSession"]


@dataclass
class QuantizeSession:
    """What is carried from layer to layer."""

    options: QuantizeOptions
    bf16: bool = False
    """Whether calibration rows go through the layers in bfloat16."""
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: dict[str, Tensor] = field(default_factory=dict)
    """Tensors of the layer at hand that scaling has changed and that are not packed, by full name; whoever writes takes them."""
    tables: dict[str, float] = field(default_factory=dict)
    """Relative weight error of the embedding or head, where it is quantized."""
    starved: dict[str, int] = field(default_factory=dict)
    """Tokens of those linear layers of experts, by full name, that had too few and were rounded to nearest."""
    journal: Journal | None = field(default=None, compare=False)
    states: Activations | None = field(default=None, compare=False)
    """What the layer that was finished last put out."""

    def entering(self, states: Activations) -> int:
        """The number of the first unfinished layer; `states` that enter the model become those that enter it."""
        self.states = states
        return self.journal.restore(states) if self.journal else 0

    def record_error(
        self, name: str, weight: Tensor, rounded: Tensor, hessian: Tensor, scheme: Scheme | None
    ) -> None:
        """Enter the relative output error of a rounded weight, and that of plain rounding to `scheme` (none: it is plain rounding)."""
        some = spread(len(weight))
        weight, rounded = weight[some], rounded[some]
        reference = max(energy(weight, hessian), 1e-30)
        error = energy(rounded - weight, hessian) / reference
        plain = (
            error
            if scheme is None
            else energy(rtn(weight, scheme).dequantize() - weight, hessian) / reference
        )
        self.modules[name] = {"error": error, "rtn_error": plain}
