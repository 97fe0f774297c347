"""A checkpoint's tensors, read one at a time while a graph is written, whether they are floating point or packed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...checkpoints.files import finite
from ...checkpoints.layouts import PackedLinear, layout_of
from ...errors import UsageError

__all__ = ["Weights"]


class Weights:
    """Lazy access to the safetensors of a checkpoint; nothing is kept after it was returned.

    A file is opened again for each tensor: what has been read counts as memory of the process for as long as its file is open.

    Args:
        path: the checkpoint directory.
        config: its config.json, which says how packed layers are packed.

    Raises:
        UsageError: there are no safetensors, or a file is damaged.
    """

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._layout, self._block = layout_of(config, str(path)), config.get("quantization_config")
        self._files: dict[str, Path] = {}
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise UsageError(
                f"{path}: no .safetensors weights", "convert the model: model.save_pretrained(DIR)"
            )
        for file in files:
            try:
                with safe_open(file, framework="pt") as handle:
                    self._files |= dict.fromkeys(handle.keys(), file)
            except (SafetensorError, OSError) as error:
                raise UsageError(
                    f"{file}: damaged or truncated: {error}", "copy or download the file again"
                ) from error

    def __contains__(self, key: str) -> bool:
        return key in self._files

    def tensor(self, key: str) -> Tensor:
        """One tensor as it is stored.

        Raises:
            UsageError: it is not there, damaged, or holds NaN or infinity.
        """
        if key not in self._files:
            raise UsageError(
                f"{self._path}: tensor `{key}` is missing", "restore the weights of the model"
            )
        try:
            with safe_open(self._files[key], framework="pt") as handle:
                tensor: Tensor = handle.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{self._path}: `{key}` cannot be read: {error}", "copy or download the file again"
            ) from error
        return finite(self._path, key, tensor)

    def state_names(self) -> set[str]:
        """The keys of a model's state that the checkpoint has weights for, packed or not."""
        packed = self._layout.names(self._files) if self._layout else []
        parts = (
            {f"{module}.{part}" for module in packed for part in self._layout.parts}
            if self._layout
            else set[str]()
        )
        return self._files.keys() - parts | {f"{module}.weight" for module in packed}

    def is_packed(self, module: str) -> bool:
        """Whether a linear layer is stored as packed integers."""
        return self._layout is not None and f"{module}.{self._layout.marker}" in self._files

    def packed(self, module: str) -> PackedLinear:
        """The integers and scales of a packed linear layer."""
        assert self._layout and self._block, "see is_packed"
        parts = {
            part: self.tensor(f"{module}.{part}")
            for part in self._layout.parts
            if f"{module}.{part}" in self._files
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
        return self.tensor(key).float() if key in self._files else None
