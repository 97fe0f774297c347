"""Low-rank adapters (Hu et al. 2021, section 4.1): learn W + (alpha / r) B A with W frozen, then merge what was learnt into W.

The adapters are peft's and live only while the student learns: the checkpoint that is written has the tensors it had before. A packed
student's W stays packed while they learn; what is written is its dequantized weights with what was learnt, in floating point.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...errors import UsageError
from ...models import Family
from .options import LoraOptions
from .packed_base import PackedBase

__all__ = ["adapted", "lora_targets"]


def lora_targets(family: Family, options: LoraOptions) -> tuple[str, ...]:
    """The adapted linear layers, by their names within a decoder layer.

    Raises:
        UsageError: a name that the family does not have, with those that it has.
    """
    known = {name.rpartition(".")[2]: name for group in family.input_groups for name in group}
    if options.targets is None:
        return (family.q, family.v)
    if unknown := [name for name in options.targets if name not in known]:
        raise UsageError(
            f"lora targets {', '.join(unknown)}: no matrix of a decoder layer here",
            f"choose from {', '.join(known)}",
        )
    return tuple(known[name] for name in dict.fromkeys(options.targets))


@contextmanager
def adapted(
    student: Any, family: Family, options: LoraOptions, dtype: torch.dtype = torch.float32
) -> Iterator[int]:
    """Train adapters and nothing else inside the block; when it ends well they are merged into the student's weights.

    Args:
        student: the causal language model, changed in place.
        family: whose names to use.
        options: rank, scale and targets.
        dtype: of the weights that packed ones become.

    Yields:
        How many parameters the adapters have.

    Raises:
        UsageError: a target is unknown, or is no linear layer of this model.
    """
    from peft import LoraConfig, get_peft_model  # late: slow to import

    names = lora_targets(family, options)
    modules = [dict(layer.named_modules()) for layer in family.layer_list(student)]
    if wrong := [
        name
        for name in names
        if not all(isinstance(inside.get(name), nn.Linear) for inside in modules)
    ]:
        raise UsageError(
            f"lora targets {', '.join(wrong)}: no linear layer in this model",
            "choose other targets",
        )
    full = [f"{family.layers}.{i}.{name}" for i in range(len(modules)) for name in names]
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
    """Every packed layer becomes an ordinary one, one after the other, with what its adapters learnt; those of others are merged."""
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
