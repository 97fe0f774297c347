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
    """Options, journal and results of one quantize step, carried from layer to layer.

    Attributes:
        options: the quantization options.
        bf16: whether calibration rows go through the layers in bfloat16.
        modules: output errors of each quantized linear layer, by full name.
        notes: messages for the report.
        changed: tensors of the current layer that scaling has changed and that are not packed, by
            full name. The writer takes them from here.
        vocab_errors: relative weight error of the embedding and the head, where quantized.
        starved: tokens of those linear layers of experts, by full name, that got too few for GPTQ
            and were rounded to nearest.
        journal: where finished layers are kept; None: nowhere.
        states: hidden states after the last finished layer.
    """

    options: QuantizeOptions
    bf16: bool = False
    modules: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    changed: dict[str, Tensor] = field(default_factory=dict)
    vocab_errors: dict[str, float] = field(default_factory=dict)
    starved: dict[str, int] = field(default_factory=dict)
    journal: Journal | None = field(default=None, compare=False)
    states: Activations | None = field(default=None, compare=False)

    def resume(self, states: Activations) -> int:
        """Find the first unfinished layer and load the hidden states that enter it.

        Args:
            states: hidden states that enter the first layer of the model; overwritten if the
                journal has finished layers.

        Returns:
            The number of the first unfinished layer.
        """
        self.states = states
        return self.journal.restore(states) if self.journal else 0

    def record_error(
        self, name: str, weight: Tensor, rounded: Tensor, hessian: Tensor, scheme: Scheme | None
    ) -> None:
        """Record the relative output error of a rounded weight, and that of plain rounding.

        Args:
            name: full name of the linear layer.
            weight: [out, in] before rounding.
            rounded: [out, in] after rounding.
            hessian: float32 [in, in] of its inputs.
            scheme: scheme for plain rounding; None: `rounded` is plain rounding already.
        """
        sample = spread(len(weight))
        weight = weight[sample]
        rounded = rounded[sample]
        reference = max(energy(weight, hessian), 1e-30)
        error = energy(rounded - weight, hessian) / reference
        rtn_error = error
        if scheme is not None:
            plain = rtn(weight, scheme).dequantize()
            rtn_error = energy(plain - weight, hessian) / reference
        self.modules[name] = {"error": error, "rtn_error": rtn_error}
