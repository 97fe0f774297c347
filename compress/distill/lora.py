"""Low-rank adapters (Hu et al. 2021, section 4.1).

Train W + (alpha / r) B A with W frozen, then merge the product into W. The adapters are peft's and
exist only during training; the written checkpoint has the same tensors as before. If the student
is packed, W stays packed during training. The written weights are then floating point: the
dequantized weights plus the merged product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import UsageError
from ...models import Architecture, decoder_layers
from .options import LoraOptions
from .packed_base import PackedBase

__all__ = ["adapted_matrices", "lora_adapters"]


def adapted_matrices(architecture: Architecture, options: LoraOptions) -> tuple[str, ...]:
    """Return the linear layers that get adapters, by their names within a decoder layer.

    Raises:
        UsageError: the model has no layer of this name; the hint lists the names that it has.
    """
    blocks = [block for layer in architecture.layers for block in (layer.mixer, layer.dense_ffn)]
    groups = (group for block in blocks if block for group in block.input_groups)
    known = {name.rpartition(".")[2]: name for group in groups for name in group}
    if options.targets is None:
        attention = architecture.layers[0].attention
        return tuple(dict.fromkeys((attention.q.stored_name, attention.v.stored_name)))
    if unknown := [name for name in options.targets if name not in known]:
        raise UsageError(
            f"lora targets {', '.join(unknown)}: no matrix of a decoder layer has this name",
            f"choose from {', '.join(known)}",
        )
    return tuple(known[name] for name in dict.fromkeys(options.targets))


@contextmanager
def lora_adapters(
    student: Any,
    architecture: Architecture,
    options: LoraOptions,
    dtype: torch.dtype = torch.float32,
) -> Iterator[int]:
    """Train only adapters inside the block; merge them into the weights when it ends normally.

    Args:
        student: the causal language model, changed in place.
        architecture: of the student.
        options: rank, scale and matrices.
        dtype: type that packed weights are dequantized to at the end.

    Yields:
        The number of parameters of the adapters.

    Raises:
        UsageError: a matrix is unknown, or is no linear layer of this model.
    """
    from peft import LoraConfig, get_peft_model  # late: slow to import

    names = adapted_matrices(architecture, options)
    modules = [dict(layer.named_modules()) for layer in decoder_layers(student, architecture)]
    if wrong := [
        name
        for name in names
        if not all(isinstance(inside.get(name), nn.Linear) for inside in modules)
    ]:
        raise UsageError(
            f"lora targets {', '.join(wrong)}: no linear layer in this model",
            "choose other targets",
        )
    full = [layer.full(name) for layer in architecture.layers for name in names]
    adapters: Any = get_peft_model(
        student,
        LoraConfig(r=options.r, lora_alpha=options.alpha, target_modules=full, lora_dropout=0.0),
    )
    yield sum(p.numel() for p in student.parameters() if p.requires_grad)
    if any(isinstance(module, PackedBase) for module in student.modules()):
        _unpack(student, dtype)
        adapters.unload()
    else:
        adapters.merge_and_unload()


@torch.no_grad()
def _unpack(student: Any, dtype: torch.dtype) -> None:
    """Merge all adapters, and turn every packed layer into an ordinary one, one at a time."""
    from peft.tuners.lora import LoraLayer  # late: slow to import

    for name, module in list(student.named_modules()):
        layer: Any = module
        base = layer.get_base_layer() if isinstance(module, LoraLayer) else None
        if isinstance(base, PackedBase):
            layer.base_layer = base.dense(dtype, layer.get_delta_weight(layer.active_adapters[0]))
        elif base is not None:
            layer.merge()
        elif isinstance(module, PackedBase) and not name.endswith(".base_layer"):
            student.set_submodule(name, module.dense(dtype))
