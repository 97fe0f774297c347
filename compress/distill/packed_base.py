"""Packed linear layers below adapters (QLoRA, Dettmers et al. 2023, section 3).

The linear layers of a packed student stay in low bits and are not trained. Each weight is
dequantized when it is used, in the forward and again in the backward pass, and freed afterwards.
peft treats the layer as an ordinary linear layer. After training it becomes one, with its adapters
merged.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoints.config import read_architecture
from ...checkpoints.layouts import PackedLinear, layout_of
from ...checkpoints.loading import check_names, tied_names
from ...checkpoints.streaming import skeleton
from ...checkpoints.tensors import read_state
from ...errors import Refused
from ...models import require_expressible
from .linears import to_device

__all__ = ["PackedBase", "check_packed", "load_packed"]


class PackedBase(nn.Linear):
    """A frozen linear layer whose weight is kept in low bits.

    Args:
        packed: the weight, on the device that computes.
        bias: [out], or None.

    Attributes:
        qweight: uint8, the integers [out, in]; for 4 bits [out, in / 2], with even columns in the
            low halves.
    """

    def __init__(self, packed: PackedLinear, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = packed.integers.shape
        self._halves = packed.bits == 4 and self.in_features % 2 == 0
        self.qweight = (
            packed.integers[:, ::2] | packed.integers[:, 1::2] << 4
            if self._halves
            else packed.integers
        )
        self._grid = replace(packed, integers=packed.integers[:0])  # all but the integers
        self.register_parameter(
            "bias", None if bias is None else nn.Parameter(bias, requires_grad=False)
        )

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The dequantized float32 [out, in] weight, computed at every access."""
        whole = (
            torch.stack([self.qweight & 15, self.qweight >> 4], -1).flatten(1)
            if self._halves
            else self.qweight
        )
        return replace(self._grid, integers=whole).dequantize()

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs [..., out] for inputs [..., in]."""
        out: Tensor = _Product.apply(input, self)  # pyright: ignore[reportAssignmentType]
        return out if self.bias is None else out + self.bias.to(out.dtype)

    @torch.no_grad()
    def dense(self, dtype: torch.dtype, delta: Tensor | None = None) -> nn.Linear:
        """Return an ordinary linear layer in CPU memory.

        Args:
            dtype: of its weights.
            delta: [out, in], added to the weight before it is cast.
        """
        weight = self.weight if delta is None else self.weight + delta
        linear = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        linear.weight = nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.to("cpu", dtype), requires_grad=False)
        return linear


class _Product(torch.autograd.Function):
    """Inputs times a packed weight; no dequantized weight is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedBase) -> Tensor:
        ctx.layer = layer
        ctx.dtype = x.dtype
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


def check_packed(path: Path) -> None:
    """Check that a packed checkpoint can carry adapters.

    Raises:
        Refused: it is a mixture of experts, or its layout is not supported.
    """
    architecture = read_architecture(path)
    layout_of(architecture.config, str(path))
    require_expressible(architecture, "qlora", str(path))


def load_packed(path: Path, device: str = "cpu") -> Any:
    """Load a packed checkpoint as a causal language model whose linear layers stay packed.

    All other weights are float32. The model is in evaluation mode.

    Raises:
        UsageError: the weights do not fit the config.
        Refused: layers round their inputs, which blocks the gradient; or as `check_packed`.
    """
    check_packed(path)
    config = read_architecture(path).config
    state = read_state(path)
    model = skeleton(path)
    layout = layout_of(config, str(path))
    assert layout is not None
    tied = tied_names(model)
    for name in layout.names(state):
        packed = layout.take(state, config["quantization_config"], name)
        if packed.inputs:
            raise Refused(
                f"{path}: {name} rounds its inputs to 8 bits, so adapters get no gradient",
                "quantize weights only",
            )
        if isinstance(model.get_submodule(name), nn.Linear) and f"{name}.weight" not in tied:
            bias = state.pop(f"{name}.bias", None)
            model.set_submodule(
                name,
                PackedBase(
                    to_device(packed, device),
                    None if bias is None else bias.to(device, torch.float32),
                ),
            )
        else:
            state[f"{name}.weight"] = packed.dequantize()
    missing, unexpected = model.load_state_dict(
        {k: v.to(device, torch.float32) for k, v in state.items()}, strict=False, assign=True
    )
    missing = [name for name in missing if name not in tied and not _is_bias_of_packed(model, name)]
    check_names(path, missing, unexpected)
    model.tie_weights()
    return model.to(device).requires_grad_(False).eval()


def _is_bias_of_packed(model: Any, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), PackedBase)
