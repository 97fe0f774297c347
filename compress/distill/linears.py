"""The linear layers of a student's decoder layers."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...models import Family

__all__ = ["decoder_linears"]


def decoder_linears(student: Any, family: Family) -> dict[str, nn.Linear]:
    """The linear layers of every decoder layer by their full names; routed experts have none."""
    found: dict[str, nn.Linear] = {}
    for index, layer in enumerate(family.layer_list(student)):
        modules = dict(layer.named_modules())
        for name in (name for group in family.input_groups for name in group):
            module = modules.get(name)
            if isinstance(module, nn.Linear):
                found[family.full(index, name)] = module
    return found
