"""A packed student under adapters (QLoRA: Dettmers et al. 2023, section 3): its linear layers stay in low bits and never learn.

Each is dequantized when it is used, for its outputs and again for the gradient of its inputs, and no dequantized weight outlives that. peft
takes it for the linear layer it stands for. When learning is over it becomes one, with what its adapters learnt.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...checkpoints.files import read_family, read_state
from ...checkpoints.layouts import PackedLinear, layout_of
from ...checkpoints.loading import check_names, tied_names
from ...checkpoints.streaming import skeleton
from ...errors import Refused
from ...models import require_dense

__all__ = ["PackedBase", "check_packed", "load_packed"]


class PackedBase(nn.Linear):
    """A frozen linear layer whose weight is kept in low bits.

    Args:
        packed: the weight, on the device where it is to compute.
        bias: [out], or None.

    Attributes:
        qweight: uint8, the integers [out, in]; of 4 bits [out, in / 2], the even columns in the low halves.
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
        """The float32 [out, in] weight that the integers stand for, made anew."""
        whole = (
            torch.stack([self.qweight & 15, self.qweight >> 4], -1).flatten(1)
            if self._halves
            else self.qweight
        )
        return replace(self._grid, integers=whole).dequantize()

    def forward(self, input: Tensor) -> Tensor:
        """The layer's outputs [..., out] for inputs [..., in]."""
        out: Tensor = _Product.apply(input, self)  # pyright: ignore[reportAssignmentType]
        return out if self.bias is None else out + self.bias.to(out.dtype)

    @torch.no_grad()
    def dense(self, dtype: torch.dtype, learnt: Tensor | None = None) -> nn.Linear:
        """An ordinary linear layer in the memory of the CPU, with something [out, in] added to the weight before it is cast."""
        weight = self.weight if learnt is None else self.weight + learnt
        linear = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        linear.weight = nn.Parameter(weight.to("cpu", dtype), requires_grad=False)
        if self.bias is not None:
            linear.bias = nn.Parameter(self.bias.to("cpu", dtype), requires_grad=False)
        return linear


class _Product(torch.autograd.Function):
    """Inputs times a packed weight; between forward and backward nothing of the weight's size is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: PackedBase) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


def check_packed(path: Path) -> None:
    """Stop where a packed checkpoint cannot carry adapters.

    Raises:
        Refused: a mixture of experts, or a layout that is not read here.
    """
    _, config = read_family(path)
    layout_of(config, str(path))
    require_dense(config, "learnt with adapters while its weights are packed", str(path))


def load_packed(path: Path, device: str = "cpu") -> Any:
    """The causal language model of a packed checkpoint, its linear layers packed in memory, the rest float32; in evaluation mode.

    Raises:
        UsageError: the weights do not fit the config.
        Refused: layers round their inputs, through which no gradient goes; or as `check_packed`.
    """
    check_packed(path)
    (_, config), state, model = read_family(path), read_state(path), skeleton(path)
    layout = layout_of(config, str(path))
    assert layout is not None
    tied = tied_names(model)
    for name in layout.names(state):
        packed = layout.take(state, config["quantization_config"], name)
        if packed.inputs:
            raise Refused(
                f"{path}: {name} rounds its inputs to 8 bits, through which adapters cannot learn",
                "quantize weights only",
            )
        if isinstance(model.get_submodule(name), nn.Linear) and f"{name}.weight" not in tied:
            bias = state.pop(f"{name}.bias", None)
            model.set_submodule(
                name,
                PackedBase(
                    _moved(packed, device), None if bias is None else bias.to(device, torch.float32)
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


def _moved(packed: PackedLinear, device: str) -> PackedLinear:
    g_idx = None if packed.g_idx is None else packed.g_idx.to(device)
    tensors = {
        "integers": packed.integers.to(device),
        "scales": packed.scales.to(device),
        "zeros": packed.zeros.to(device),
    }
    return replace(packed, **tensors, g_idx=g_idx)
