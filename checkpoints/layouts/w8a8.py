"""Layouts of INT8 weights with INT8 inputs, both symmetric, one weight scale per output channel.

Compressed-tensors (`int-quantized`, read by vLLM): `weight` int8 [out, in], `weight_scale` float32
[out, 1]; inputs are rounded with one scale per token.

ModelOpt (read by TensorRT-Edge-LLM as INT8 SmoothQuant): `weight` int8 [out, in], `weight_scale`
float32 [out], `input_scale` float32 [], the fixed scale of all inputs, and `pre_quant_scale`
float16 [in], which is 1 where smoothing was folded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import UsageError
from ..packing import SMOOTHQUANT
from ..scheme import Scheme
from .packed import Int8Inputs, Layout, PackedLinear

__all__ = ["CompressedTensors", "ModelOpt"]


def _signed(packed: PackedLinear) -> Tensor:
    return (packed.integers.to(torch.int16) - packed.zeros.to(torch.int16)).to(torch.int8)


def _packed(weight: Tensor, scales: Tensor, inputs: Int8Inputs) -> PackedLinear:
    column = scales.float().view(-1, 1)
    zeros = torch.full(column.shape, 128, dtype=torch.uint8)
    return PackedLinear(
        (weight.to(torch.int16) + 128).to(torch.uint8), column, zeros, 8, weight.shape[1], inputs
    )


class CompressedTensors(Layout):
    """INT8 weights, and INT8 inputs with one scale per token."""

    method = "compressed-tensors"
    parts = ("weight", "weight_scale")
    marker = "weight_scale"
    rounds_inputs = True

    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """See `Layout.specs`."""
        return {
            "weight": torch.empty(outputs, width, dtype=torch.int8, device="meta"),
            "weight_scale": torch.empty(outputs, 1, dtype=torch.float32, device="meta"),
        }

    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """See `Layout.write`."""
        return {"weight": _signed(packed), "weight_scale": packed.scales}

    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """See `Layout.read`."""
        return _packed(parts["weight"], parts["weight_scale"], Int8Inputs())

    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """See `Layout.config`."""
        shared = {"num_bits": 8, "type": "int", "symmetric": True}
        group = {
            "targets": ["Linear"],
            "weights": {**shared, "strategy": "channel", "dynamic": False},
            "input_activations": {**shared, "strategy": "token", "dynamic": True},
        }
        return {
            "quant_method": self.method,
            "format": "int-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": list(kept),
        }


class ModelOpt(Layout):
    """INT8 weights, and INT8 inputs with a fixed scale: ModelOpt's W8A8 SmoothQuant checkpoints."""

    method = "modelopt"
    parts = ("weight", "weight_scale", "input_scale", "pre_quant_scale")
    marker = "weight_scale"
    rounds_inputs = True

    def specs(self, outputs: int, width: int, scheme: Scheme) -> dict[str, Tensor]:
        """See `Layout.specs`."""
        return {
            "weight": torch.empty(outputs, width, dtype=torch.int8, device="meta"),
            "weight_scale": torch.empty(outputs, dtype=torch.float32, device="meta"),
            "input_scale": torch.empty((), dtype=torch.float32, device="meta"),
            "pre_quant_scale": torch.empty(width, dtype=torch.float16, device="meta"),
        }

    def write(self, packed: PackedLinear) -> dict[str, Tensor]:
        """See `Layout.write`."""
        assert packed.inputs and packed.inputs.scale is not None, (
            "this layout has a fixed input scale"
        )
        return {
            "weight": _signed(packed),
            "weight_scale": packed.scales.view(-1),
            "input_scale": torch.tensor(packed.inputs.scale),
            "pre_quant_scale": torch.ones(packed.integers.shape[1], dtype=torch.float16),
        }

    def read(self, parts: Mapping[str, Tensor], scheme: Scheme, name: str) -> PackedLinear:
        """See `Layout.read`."""
        before = parts.get("pre_quant_scale")
        if before is not None and bool((before != 1).any()):
            raise UsageError(
                f"{name}: smoothing that was not folded (pre_quant_scale)",
                "quantize with edgewright, which folds it",
            )
        return _packed(
            parts["weight"], parts["weight_scale"], Int8Inputs(float(parts["input_scale"]))
        )

    def config(self, scheme: Scheme, damp: float, kept: Sequence[str] = ()) -> dict[str, Any]:
        """See `Layout.config`."""
        return {
            "quant_method": self.method,
            "quant_algo": SMOOTHQUANT,
            "kv_cache_quant_algo": None,
            "exclude_modules": list(kept),
        }

    def files(self, block: Mapping[str, Any]) -> dict[str, Any]:
        """See `Layout.files`."""
        quantization = {
            name: block[name] for name in ("quant_algo", "kv_cache_quant_algo", "exclude_modules")
        }
        return {
            "hf_quant_config.json": {
                "producer": {"name": "edgewright"},
                "quantization": quantization,
            }
        }
