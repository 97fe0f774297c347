"""A checkpoint's tensors, read one at a time while a graph is written, whether they are floating point or GPTQ-packed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import UsageError
from ..layouts import PackedLinear, layout_of

__all__ = ["Weights"]


class Weights:
    """Lazy access to the safetensors of a checkpoint; nothing is kept after it was returned.

    Args:
        path: the checkpoint directory.
        config: its config.json, which says how packed layers are packed.

    Raises:
        UsageError: there are no safetensors, or a file is damaged.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._layout, self._block = layout_of(config, str(path)), config.get("quantization_config")
        self._handles: dict[str, Any] = {}
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UsageError(f"{path}: no .safetensors weights", "convert the model: model.save_pretrained(DIR)")
        for file in files:
            try:
                handle = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UsageError(f"{file}: damaged or truncated: {error}", "copy or download the file again") from error
            self._handles |= dict.fromkeys(handle.keys(), handle)

    def __contains__(self, key: str) -> bool:
        return key in self._handles

    def tensor(self, key: str) -> Tensor:
        """One tensor as it is stored.

        Raises:
            UsageError: it is not there, damaged, or holds NaN or infinity.
        """
        if key not in self._handles:
            raise UsageError(f"{self._path}: tensor `{key}` is missing", "restore the weights of the model")
        try:
            tensor: Tensor = self._handles[key].get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{self._path}: `{key}` cannot be read: {error}", "copy or download the file again") from error
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UsageError(f"{self._path}: tensor `{key}` holds NaN or infinity", "restore the weights of the model")
        return tensor

    def is_packed(self, module: str) -> bool:
        """Whether a linear layer is stored as packed integers."""
        return self._layout is not None and f"{module}.{self._layout.marker}" in self._handles

    def packed(self, module: str) -> PackedLinear:
        """The integers and scales of a packed linear layer."""
        assert self._layout and self._block, "see is_packed"
        parts = {part: self.tensor(f"{module}.{part}") for part in self._layout.parts if f"{module}.{part}" in self._handles}
        return self._layout.read(parts, self._layout.scheme(self._block, module), module)

    def dense(self, module: str) -> Tensor:
        """The float32 [out, in] weight of a linear layer, dequantized where it is packed."""
        return self.packed(module).dequantize() if self.is_packed(module) else self.tensor(f"{module}.weight").float()

    def vector(self, key: str) -> Tensor | None:
        """A norm's weight or a bias in float32, or None where the model has none."""
        return self.tensor(key).float() if key in self._handles else None
