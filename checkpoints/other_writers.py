"""What other programs write otherwise, and transformers reads all the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..errors import EdgewrightError
from ..models import EmbeddingAndHead, architecture

__all__ = ["needless_biases", "with_prefix"]

T = TypeVar("T")
PACKED = "qweight"
"""The part of a packed layer by which GPTQ and AWQ files are known."""


def with_prefix(stored: Mapping[str, T], names: EmbeddingAndHead) -> dict[str, T]:
    """Tensors by the names of a causal language model, if they were saved from its base model.

    The base model does not know its place: its `layers.0` is the other's `model.layers.0`.

    Args:
        stored: tensors by their names in files.
        names: of embedding and head.
    """
    prefix, _, embedding = names.embedding.partition(".")
    place = f"{prefix}."
    if f"{embedding}.weight" not in stored or any(name.startswith(place) for name in stored):
        return dict(stored)
    head = f"{names.head}."
    return {
        name if name.startswith(head) else f"{place}{name}": tensor
        for name, tensor in stored.items()
    }


def needless_biases(stored: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """Biases beside packed layers that the architecture has not. AutoGPTQ wrote zeros there.

    Args:
        stored: names of the tensors.
        config: config.json of the model.
    """
    names = {*stored}
    found = [
        bias
        for name in names
        if name.endswith(f".{PACKED}") and (bias := f"{name.removesuffix(PACKED)}bias") in names
    ]
    if not found:
        return []
    try:
        model = architecture(config, "config.json")
    except EdgewrightError:  # whoever reads the architecture says what is wrong
        return []
    own = {
        layer.key(linear.name, "bias")
        for layer in model.layers
        for linear in layer.linears
        if linear.bias
    }
    return sorted({*found} - own)
