"""A checkpoint's tensors, floating-point or packed, read one at a time for an exporter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checkpoints.layouts import PackedLinear, layout_of
from ...checkpoints.tensors import read_stored, stored_tensors
from ...errors import UsageError

__all__ = ["Weights"]


class Weights:
    """Reads the tensors of a checkpoint on request, and keeps none.

    Each read opens the file again, as mapped pages stay in memory until the file is closed.

    Args:
        path: the checkpoint directory.
        config: its config.json, which says how packed layers are packed.

    Raises:
        UsageError: there are no safetensors, or a file is damaged.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._layout, self._block = layout_of(config, str(path)), config.get("quantization_config")
        self._stored = stored_tensors(path)

    def __contains__(self, key: str) -> bool:
        return key in self._stored

    def tensor(self, key: str) -> Tensor:
        """One tensor as it is stored.

        Raises:
            UsageError: it is missing, damaged, or holds NaN or infinity.
        """
        if key not in self._stored:
            raise UsageError(
                f"{self._path}: tensor `{key}` is missing", "restore the weights of the model"
            )
        return read_stored(self._path, key, self._stored[key])

    def state_names(self) -> set[str]:
        """The keys of a model's state that the checkpoint has weights for, packed or not."""
        packed = self._layout.names(self._stored) if self._layout else []
        parts = (
            {f"{module}.{part}" for module in packed for part in self._layout.parts}
            if self._layout
            else set[str]()
        )
        return self._stored.keys() - parts | {f"{module}.weight" for module in packed}

    def is_packed(self, module: str) -> bool:
        """Whether a linear layer is stored as packed integers."""
        return self._layout is not None and f"{module}.{self._layout.marker}" in self._stored

    def bits(self, module: str) -> int | None:
        """Bits of a packed linear layer; None: it is not packed."""
        if not (self._layout and self._block and self.is_packed(module)):
            return None
        return self._layout.scheme(self._block, module).bits

    def packed(self, module: str) -> PackedLinear:
        """The integers and scales of a packed linear layer."""
        assert self._layout and self._block, "see is_packed"
        parts = {
            part: self.tensor(f"{module}.{part}")
            for part in self._layout.parts
            if f"{module}.{part}" in self._stored
        }
        return self._layout.read(parts, self._layout.scheme(self._block, module), module)

    def dense(self, module: str) -> Tensor:
        """The float32 [out, in] weight of a linear layer, dequantized where it is packed."""
        return (
            self.packed(module).dequantize()
            if self.is_packed(module)
            else self.tensor(f"{module}.weight").float()
        )

    def vector(self, key: str) -> Tensor | None:
        """A norm's weight or a bias in float32, or None where the model has none."""
        return self.tensor(key).float() if key in self._stored else None
