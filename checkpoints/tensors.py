"""The one reader of a checkpoint's tensors; `inventory` decides which tensors these are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .config import dtype_name, written_config
from .inventory import StoredTensor, inventory, opened
from .safetensors_writer import DTYPES

__all__ = [
    "all_finite",
    "check_finite",
    "finite",
    "read_state",
    "read_stored",
    "rows_of",
    "stored_dtype",
    "stored_tensors",
    "tensor_specs",
    "tensors_of",
]

MAPPED_BYTES = 2**28


def stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """The floating-point type that a config.json names; float32 where it names none."""
    name = dtype_name(config)
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"config.json: dtype `{name}` is unknown", "use float32, float16 or bfloat16"
        )
    return dtype


def stored_tensors(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors that are the model in a directory, by name; no value is read.

    Raises:
        UsageError: there are no safetensors, or a file is damaged or missing.
        Refused: weights are in a type that stands for other values.
    """
    return inventory(path, written_config(path)).tensors


def tensors_of(
    path: Path, wanted: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in a checkpoint, one at a time in memory, checked.

    Args:
        path: the checkpoint.
        wanted: whether to read the tensor of this name; default: all.

    Raises:
        UsageError: no safetensors, a truncated file, or a tensor with NaN or infinity.
    """
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for name, stored in stored_tensors(path).items():
        if wanted is None or wanted(name):
            by_file.setdefault(stored.file, []).append((name, stored.name))
    for file, names in by_file.items():
        waiting = deque(names)
        while waiting:
            # What was read stays in memory until the file is closed, so it is reopened at times.
            with opened(file) as handle:
                read = 0
                while waiting and read < MAPPED_BYTES:
                    name, stored_name = waiting.popleft()
                    tensor = finite(path, name, handle.get_tensor(stored_name))
                    read += tensor.nbytes
                    yield name, tensor
                    del tensor


def read_stored(path: Path, name: str, stored: StoredTensor) -> Tensor:
    """One tensor as it is stored, checked as `tensors_of` does; its file is closed again.

    Args:
        path: the checkpoint, for messages.
        name: the model's name for the tensor.
        stored: where it is; see `stored_tensors`.
    """
    with opened(stored.file) as handle:
        tensor: Tensor = handle.get_tensor(stored.name)
    return finite(path, name, tensor)


def check_finite(path: Path) -> None:
    """Read a whole checkpoint once, so that broken weights are reported before any work starts."""
    deque(tensors_of(path), maxlen=0)


def rows_of(path: Path, name: str, size: int) -> Iterator[Tensor]:
    """A tensor of a checkpoint, `size` rows in memory at a time; checked as `tensors_of` does."""
    stored = stored_tensors(path).get(name)
    if stored is None:
        return
    for begin in range(0, stored.shape[0], size):
        # What was read stays in memory until the file is closed, so it is reopened each time.
        with opened(stored.file) as handle:
            yield finite(path, name, handle.get_slice(stored.name)[begin : begin + size])


def tensor_specs(path: Path) -> dict[str, Tensor]:
    """Name, shape and dtype of everything in a checkpoint, as tensors on the meta device.

    Raises:
        UsageError: no safetensors, a truncated file, or a dtype that torch cannot compute with.
    """
    specs: dict[str, Tensor] = {}
    for name, stored in stored_tensors(path).items():
        if stored.dtype not in DTYPES:
            raise UsageError(
                f"{path}: tensor `{name}` is in {stored.dtype}",
                "convert the model to float32, float16 or bfloat16",
            )
        specs[name] = torch.empty(stored.shape, dtype=DTYPES[stored.dtype], device="meta")
    return specs


def all_finite(tensor: Tensor) -> bool:
    """Whether a floating-point tensor holds no NaN and no infinity; needs no extra memory."""
    if not tensor.numel():
        return True
    values = tensor.half() if tensor.itemsize == 1 else tensor  # float8 has no extremes
    # Ten times as fast as to look at every value: the extremes are finite if all values are.
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())


def finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, if there is no NaN or infinity in it."""
    if tensor.is_floating_point() and not all_finite(tensor):
        raise UsageError(
            f"{path}: tensor `{name}` holds NaN or infinity",
            "restore the weights; nothing can be measured on them",
        )
    return tensor


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, checked as `tensors_of` does."""
    return dict(tensors_of(path))
