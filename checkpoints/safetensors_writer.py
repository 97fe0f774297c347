"""Write safetensors tensor by tensor, so that no whole file has to fit in memory.

Shapes must be known before values. The bytes are those that safetensors itself writes: 8 bytes with
the length of the header, a JSON header, the data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["DTYPES", "Pending", "write_shards"]

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
}
"""The format's names, in the format's order: wider types lie before narrower ones."""
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANKS = {dtype: rank for rank, dtype in enumerate(DTYPES.values())}


@dataclass(frozen=True)
class Pending:
    """Tensors that are made while they are written, in any order."""

    specs: Mapping[str, Tensor]
    """Name, shape and dtype of each; may be on the meta device, because values are not read."""
    tensors: Iterable[tuple[str, Tensor]]


def write_shards(folder: Path, state: Pending, limit: int) -> None:
    """Write `model.safetensors`, or shards of at most `limit` bytes and their index.

    Raises:
        ValueError: the tensors are not those that were announced.
        OSError: the disk is full, or the place cannot be written to.
    """
    shards = _shards(state.specs, limit)
    place: dict[str, tuple[BinaryIO, int]] = {}
    with ExitStack() as stack:
        for name, specs in shards.items():
            handle = stack.enter_context((folder / name).open("wb"))
            place |= {key: (handle, offset) for key, offset in _begin(handle, specs).items()}
        for name, tensor in state.tensors:
            handle, offset = place.pop(name)
            spec = state.specs[name]
            if (spec.shape, spec.dtype) != (tensor.shape, tensor.dtype):
                raise ValueError(
                    f"{name}: {tuple(tensor.shape)} in {tensor.dtype}, "
                    f"announced as {tuple(spec.shape)} in {spec.dtype}"
                )
            handle.seek(offset)
            handle.write(_bytes(tensor))
    if place:
        raise ValueError(f"announced and never made: {sorted(place)[:3]}")
    if len(shards) > 1:
        total = sum(t.nbytes for t in state.specs.values())
        index = {
            "metadata": {"total_size": total},
            "weight_map": {key: name for name, specs in shards.items() for key in specs},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _shards(specs: Mapping[str, Tensor], limit: int) -> dict[str, dict[str, Tensor]]:
    """File names and what goes into them, in the order given."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, spec in specs.items():
        if parts[-1] and size + spec.nbytes > limit:
            parts.append({})
            size = 0
        parts[-1][name] = spec
        size += spec.nbytes
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {
        f"model-{number:05d}-of-{len(parts):05d}.safetensors": part
        for number, part in enumerate(parts, 1)
    }


def _begin(handle: BinaryIO, specs: Mapping[str, Tensor]) -> dict[str, int]:
    """Write the header and give every tensor its place in the file."""
    order = sorted(specs, key=lambda name: (-RANKS[specs[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        spec = specs[name]
        begin = end
        end += spec.nbytes
        header[name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    handle.write(len(text).to_bytes(8, "little") + text)
    handle.flush()
    # Reserve the space: a full disk fails here, and not after hours of work.
    os.posix_fallocate(handle.fileno(), 0, 8 + len(text) + end)
    return {name: 8 + len(text) + header[name]["data_offsets"][0] for name in order}


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy of one that is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
