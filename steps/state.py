"""A model in a plan: its architecture and how its weights are stored.

Nothing here reads a weight or imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.config import dtype_name, packing, quantization, read_architecture
from ..checkpoints.inventory import weight_files
from ..errors import UsageError
from ..models import Architecture
from ..models.footprint import size_of

__all__ = ["State", "checkpoint_state", "float_precision"]


@dataclass(frozen=True)
class State:
    """A model as it is, or as a step will leave it."""

    architecture: Architecture
    precision: str
    group_size: int = 128
    sym: bool = True
    format: str | None = None
    """Format of an exported model; None for a checkpoint."""
    g_idx: bool = False
    """Whether groups of inputs are permuted, so that a kernel has to gather."""

    extra_bytes: int = 0
    """Weight bytes that `precision` and `group_size` do not explain: mixed bits, a packed head."""

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return self.architecture.parameters

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: all but those of its idle experts."""
        return self.architecture.active_parameters()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on disk."""
        return size_of(self.architecture, self.precision, self.group_size) + self.extra_bytes


def checkpoint_state(path: Path) -> State:
    """The state of a model directory."""
    model = read_architecture(path)
    if packed := packing(model.config):
        bits, group_size, sym = packed
        g_idx = bool((quantization(model.config) or {}).get("desc_act"))
        extra = _extra_bytes(path, model)
        return State(model, f"int{bits}", group_size, sym, g_idx=g_idx, extra_bytes=extra)
    return State(model, float_precision(model.config))


def float_precision(config: Mapping[str, Any]) -> str:
    """The precision of weights that are not packed, by config.json."""
    return {"float16": "fp16", "bfloat16": "bf16"}.get(dtype_name(config), "fp32")


def _extra_bytes(path: Path, model: Architecture) -> int:
    """Bytes of a quantized checkpoint that its bits and group size do not explain.

    0 where config.json names no layer with other bits and no packed head, and for a plan without
    the weights.
    """
    block = quantization(model.config) or {}
    if not block.get("dynamic") and not block.get("lm_head"):
        return 0
    bits, group_size, _ = packing(model.config) or (16, -1, True)
    try:
        on_disk = sum(file.stat().st_size for file in weight_files(path))
    except UsageError:
        return 0
    return on_disk - size_of(model, f"int{bits}", group_size)
