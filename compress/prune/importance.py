"""How much each head, FFN neuron and layer matters, measured on calibration rows in one pass.

Heads and neurons are scored at the input of the projection that reads them (o_proj, down_proj), where each owns its
slice of channels, so that every criterion is a hook there and no weight gradient is ever formed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models import Family, Shape, weight_of
from .cut import Kept
from .experts import mask_router

__all__ = ["Criterion", "Importance", "masked", "measure"]

Criterion = Literal["taylor", "activation", "norm", "magnitude", "random"]


@dataclass
class Importance:
    """Scores, larger is more important: heads [layers, heads], neurons [layers, ffn], layers [layers]."""

    heads: Tensor
    neurons: Tensor
    layers: Tensor


@dataclass
class _Probe:
    """What one layer's hooks gather."""

    head_mask: Tensor
    neuron_mask: Tensor
    attention_square: Tensor | float = 0.0
    ffn_square: Tensor | float = 0.0
    head_norm: Tensor | float = 0.0
    neuron_norm: Tensor | float = 0.0
    influence: float = 0.0
    tokens: int = 0
    handles: list[Any] = field(default_factory=list)


def measure(model: nn.Module, family: Family, shape: Shape, rows: Iterable[Tensor], criterion: Criterion, seed: int = 0) -> Importance:
    """Score heads, neurons and layers by one criterion.

    Args:
        model: the causal language model, in evaluation mode; left as it was.
        family: whose names to use.
        shape: its sizes.
        rows: int64 [2, seq] of ids and labels.
        criterion: `taylor` = mean over rows of |d loss / d mask| (Michel et al. 2019, section 4.1; one scalar a head);
            `activation` = output-projection weights times input norms (Sun et al. 2023, equation 1, summed a head);
            `norm` = mean norm of the head's output; `magnitude` = norm of its output weights; `random`.
        seed: of the random criterion.

    Layers are always scored by block influence: 1 - cosine of a layer's input and output (Men et al. 2024, section 3.2).
    """
    layers = family.layer_list(model)
    probes = [_probe(layer, family, shape, next(model.parameters()).device) for layer in layers]
    heads = torch.zeros(len(layers), shape.num_attention_heads)
    neurons = torch.zeros(len(layers), shape.intermediate_size)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    count = 0
    try:
        for row in rows:
            _one_row(model, probes, row, criterion)
            if criterion == "taylor":
                for i, probe in enumerate(probes):
                    heads[i] += _take_gradient(probe.head_mask)
                    neurons[i] += _take_gradient(probe.neuron_mask)
            count += 1
    finally:
        for probe in probes:
            for handle in probe.handles:
                handle.remove()
    if criterion == "taylor":
        heads, neurons = heads / max(count, 1), neurons / max(count, 1)
    else:
        for i, (layer, probe) in enumerate(zip(layers, probes, strict=True)):
            heads[i], neurons[i] = _static_scores(layer, probe, family, shape, criterion, seed + i)
    influence = torch.tensor([p.influence / max(p.tokens, 1) for p in probes])
    return Importance(heads, neurons, influence)


def _probe(layer: nn.Module, family: Family, shape: Shape, device: torch.device) -> _Probe:
    probe = _Probe(
        torch.ones(shape.num_attention_heads, device=device, requires_grad=True),
        torch.ones(shape.intermediate_size, device=device, requires_grad=True),
    )

    def attention(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        split = x.view(*x.shape[:-1], shape.num_attention_heads, shape.head_dim)
        probe.attention_square = probe.attention_square + x.detach().float().pow(2).flatten(0, -2).sum(0)
        probe.head_norm = probe.head_norm + split.detach().float().norm(dim=-1).flatten(0, -2).sum(0)
        return ((split * probe.head_mask.unsqueeze(-1)).flatten(-2), *args[1:])

    def ffn(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        probe.ffn_square = probe.ffn_square + x.detach().float().pow(2).flatten(0, -2).sum(0)
        probe.neuron_norm = probe.neuron_norm + x.detach().float().abs().flatten(0, -2).sum(0)
        return (x * probe.neuron_mask, *args[1:])

    def block(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        before, after = args[0].detach().float(), (output[0] if isinstance(output, tuple) else output).detach().float()
        probe.influence += float((1 - F.cosine_similarity(before, after, dim=-1)).sum())
        probe.tokens += before.shape[0] * before.shape[1]

    hooks = {family.o: attention, family.down: ffn}
    probe.handles = [layer.get_submodule(name).register_forward_pre_hook(hooks[name]) for name in family.outputs(layer)]
    probe.handles.append(layer.register_forward_hook(block))
    return probe


def _one_row(model: nn.Module, probes: list[_Probe], row: Tensor, criterion: Criterion) -> None:
    row = row.to(probes[0].head_mask.device)
    with torch.set_grad_enabled(criterion == "taylor"):
        logits = model(input_ids=row[:1], use_cache=False).logits
        if criterion == "taylor" and bool((row[1, 1:] >= 0).any()):
            F.cross_entropy(logits[0, :-1].float(), row[1, 1:], ignore_index=-100).backward()


def _take_gradient(mask: Tensor) -> Tensor:
    gradient = torch.zeros_like(mask) if mask.grad is None else mask.grad.abs()
    mask.grad = None
    return gradient.detach().cpu().float()


def _static_scores(layer: nn.Module, probe: _Probe, family: Family, shape: Shape, criterion: str, seed: int) -> tuple[Tensor, Tensor]:
    o = weight_of(layer.get_submodule(family.o)).float().cpu()
    dense = family.down in family.outputs(layer)  # the neurons of experts are not scored
    down = weight_of(layer.get_submodule(family.down)).float().cpu() if dense else torch.zeros(1, shape.intermediate_size)
    tokens = max(probe.tokens, 1)

    def by_head(columns: Tensor) -> Tensor:
        return columns.view(shape.num_attention_heads, shape.head_dim).sum(-1)

    if criterion == "magnitude":
        return by_head(o.pow(2).sum(0)).sqrt(), down.norm(dim=0)
    if criterion == "activation":
        attention, ffn = torch.as_tensor(probe.attention_square).cpu(), torch.as_tensor(probe.ffn_square).cpu()
        return by_head(o.abs().sum(0) * (attention / tokens).sqrt()), down.abs().sum(0) * (ffn / tokens).sqrt()
    if criterion == "norm":
        return torch.as_tensor(probe.head_norm).cpu() / tokens, torch.as_tensor(probe.neuron_norm).cpu() / tokens
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape.num_attention_heads, generator=generator), torch.rand(shape.intermediate_size, generator=generator)


@contextmanager
def masked(model: nn.Module, family: Family, shape: Shape, kept: Kept) -> Iterator[None]:
    """The model as it is after a cut, without cutting: only the kept heads, neurons, experts and layers contribute.

    Args:
        model: the uncut model.
        family: whose names to use.
        shape: its sizes.
        kept: what stays.
    """
    handles = []
    for i, layer in enumerate(family.layer_list(model)):
        if i not in kept.layers:
            handles.append(layer.register_forward_hook(_skip))
            continue
        mask = torch.zeros(shape.num_attention_heads)
        mask[kept.heads[i]] = 1
        handles.append(layer.get_submodule(family.o).register_forward_pre_hook(_multiplier(mask.repeat_interleave(shape.head_dim))))
        if family.down in family.outputs(layer):
            mask = torch.zeros(shape.intermediate_size)
            mask[kept.neurons[i]] = 1
            handles.append(layer.get_submodule(family.down).register_forward_pre_hook(_multiplier(mask)))
        if routed := kept.routed(i):
            handles.append(mask_router(layer, family, shape, routed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(mask: Tensor) -> Any:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * mask.to(args[0]), *args[1:])

    return hook


def _skip(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
