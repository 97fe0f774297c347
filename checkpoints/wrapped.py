"""Writes a changed text model back into the wrapper it was read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..models import WRAPPED_IN, stored_names, whole_block, whole_config
from .config import read_json, written_config
from .inventory import Inventory, StoredTensor, inventory, opened
from .safetensors_writer import DTYPES, Pending

__all__ = ["block_in_files", "in_wrapper"]


def in_wrapper(
    text: Pending, config: Mapping[str, Any], source: Path
) -> tuple[Pending, dict[str, Any]]:
    """The tensors and the config.json of a wrapper around a changed text model.

    Names are spelled as the source spells them; all other tensors are those of the source.

    Args:
        text: the tensors of the text model.
        config: its config, made from that of the source.
        source: the wrapper that the text model was read from.

    Raises:
        UsageError: the source is no such wrapper, or it is damaged.
    """
    before = written_config(source)
    if before.get(WRAPPED_IN) != config[WRAPPED_IN]:
        raise UsageError(
            f"{source}: is no {config[WRAPPED_IN]}, which the text model was taken from",
            "use the model directory that it was taken from",
        )
    found = inventory(source, before)
    known = {own: tensor.name for own, tensor in found.tensors.items()}
    names = stored_names(known, text.specs)
    specs = {names[name]: spec for name, spec in text.specs.items()}
    specs |= {
        name: torch.empty(stored.shape, dtype=DTYPES[stored.dtype], device="meta")
        for name, stored in found.carried.items()
    }

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in text.tensors:
            yield names[name], tensor
        for name, stored in found.carried.items():
            yield name, _as_stored(stored)

    whole = whole_config(read_json(source / "config.json"), config, _modules(found))
    return Pending(specs, tensors()), whole


def block_in_files(
    block: Mapping[str, Any], config: Mapping[str, Any], source: Path
) -> dict[str, Any]:
    """A quantization block as files have it: a wrapper has other names than its text model.

    Args:
        block: the block of the text model, or of a model in no wrapper.
        config: the config of that model.
        source: its directory.
    """
    if not config.get(WRAPPED_IN):
        return dict(block)
    return whole_block(block, _modules(inventory(source, config)))


def _modules(found: Inventory) -> list[str]:
    """The names of the modules beside the text model, such as `vision_tower`."""
    return list(dict.fromkeys(name.removeprefix("model.").split(".")[0] for name in found.carried))


def _as_stored(stored: StoredTensor) -> Tensor:
    with opened(stored.file) as handle:
        return handle.get_tensor(stored.name)
