"""Model directories changed on disk, for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["configure", "put", "rewrite", "sharded", "write_shards"]


def put(folder: Path, state: Mapping[str, torch.Tensor], name: str = "model.safetensors") -> None:
    """Write tensors as a safetensors file of a model directory."""
    tensors = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(tensors, folder / name, metadata={"format": "pt"})


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of a checkpoint in one file in place."""
    state = load_file(folder / "model.safetensors")
    change(state)
    put(folder, state)


def configure(folder: Path, *, drop: tuple[str, ...] = (), **values: Any) -> Path:
    """Set entries of config.json, and remove those in `drop`."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))
    return folder


def write_shards(
    folder: Path, state: Mapping[str, torch.Tensor], parts: int, prefix: str = "model"
) -> dict[str, str]:
    """Write tensors in turns into several files; the file of each, by name."""
    names = {
        key: f"{prefix}-{i % parts + 1:05d}-of-{parts:05d}.safetensors"
        for i, key in enumerate(state)
    }
    for file in set(names.values()):
        put(folder, {k: v for k, v in state.items() if names[k] == file}, file)
    return names


def sharded(folder: Path) -> Path:
    """The same checkpoint in three files, with a layer's tensors in more than one of them."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": write_shards(folder, state, 3)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
