"""How much each head, FFN neuron and layer matters, measured on calibration rows.

Heads and neurons are scored at the input of the projection that reads them (o_proj, down_proj), where each owns its
slice of channels, so that every criterion is a hook there and no weight gradient is ever formed. All criteria but the
gradient go layer by layer, so that the model need not be in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...checkpoints.streaming import InMemory, Layered
from ...console import progress
from ...models import Family, Shape, weight_of
from ..calibration.activation_buffer import Room
from ..calibration.layer_inputs import first_inputs
from .cut import Kept
from .experts import Usage, mask_router, watched
from .options import Criterion

__all__ = ["Importance", "masked", "masked_layer", "measure", "measure_layers"]


@dataclass
class Importance:
    """Scores, larger is more important: heads [layers, heads], neurons [layers, ffn], layers [layers]."""

    heads: Tensor
    neurons: Tensor
    layers: Tensor
    experts: dict[int, Usage] = field(default_factory=dict[int, Usage])
    """What the experts of a mixture did, by layer; the neurons of such layers are not scored."""


def measure(
    model: nn.Module,
    family: Family,
    shape: Shape,
    rows: list[Tensor],
    criterion: Criterion,
    seed: int = 0,
    *,
    recompute: bool = True,
) -> Importance:
    """Score heads, neurons and layers of a loaded model by one criterion.

    Args:
        model: the causal language model, in evaluation mode; left as it was.
        family: whose names to use.
        shape: its sizes.
        rows: int64 [2, seq] of ids and labels.
        criterion: `taylor` = mean over rows of |d loss / d mask| (Michel et al. 2019, section 4.1; one scalar a head);
            `activation` = output-projection weights times input norms (Sun et al. 2023, equation 1, summed a head);
            `norm` = mean norm of the head's output; `magnitude` = norm of a head's values times outputs, of a neuron's outputs; `random`.
        seed: of the random criterion.
        recompute: for `taylor`, keep what enters a layer and compute the rest again on the way back (Chen et al. 2016,
            section 3): the memory of one layer's activations instead of all. The scores are the same.

    Layers are always scored by block influence: 1 - cosine of a layer's input and output (Men et al. 2024, section 3.2).
    """
    if criterion == "taylor":
        return _by_gradient(model, family, shape, rows, recompute)
    return measure_layers(InMemory(model, family), shape, rows, criterion, seed)


def measure_layers(
    model: Layered,
    shape: Shape,
    rows: list[Tensor],
    criterion: Criterion,
    seed: int = 0,
    room: Room | None = None,
) -> Importance:
    """`measure`, with one layer in memory at a time, by any criterion that needs no gradient.

    Args:
        model: whose layers; left as it was.
        shape: its sizes.
        rows: int64 [2, seq] of ids and labels, all of one length.
        criterion: all but `taylor`.
        seed: of the random criterion.
        room: where the hidden states of the rows are kept.
    """
    family, count = model.family, len(model.layers)
    states, calls = first_inputs(model, rows, room)
    found = Importance(
        torch.zeros(count, shape.num_attention_heads),
        torch.zeros(count, shape.intermediate_size),
        torch.zeros(count),
    )
    with torch.no_grad(), progress("scoring heads and neurons", count) as bar:
        for i, call in enumerate(calls):
            with model.held(i) as layer:
                with (
                    _watched(layer, family, shape) as seen,
                    watched(layer, i, family, shape) as usage,
                ):
                    for row in range(len(states)):
                        before = states[row]
                        after = call(layer, before)
                        seen.influence += _turned(before, after)
                        states[row] = after
                seen.tokens = len(states) * states.shape[1]
                found.heads[i], found.neurons[i] = _static_scores(
                    layer, seen, family, shape, criterion, seed + i
                )
                found.layers[i] = seen.influence / seen.tokens
                found.experts |= {i: usage} if usage else {}
            bar.advance()
    return found


@dataclass
class _Seen:
    """Sums over the tokens that went through a layer."""

    attention_square: Tensor | float = 0.0
    ffn_square: Tensor | float = 0.0
    head_norm: Tensor | float = 0.0
    neuron_norm: Tensor | float = 0.0
    influence: float = 0.0
    tokens: int = 0


@contextmanager
def _watched(layer: nn.Module, family: Family, shape: Shape) -> Iterator[_Seen]:
    """Gathers what the output projections of a layer are given."""
    seen = _Seen()

    def attention(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].float()
        split = x.view(*x.shape[:-1], shape.num_attention_heads, shape.head_dim)
        seen.attention_square = seen.attention_square + x.pow(2).flatten(0, -2).sum(0)
        seen.head_norm = seen.head_norm + split.norm(dim=-1).flatten(0, -2).sum(0)

    def ffn(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].float()
        seen.ffn_square = seen.ffn_square + x.pow(2).flatten(0, -2).sum(0)
        seen.neuron_norm = seen.neuron_norm + x.abs().flatten(0, -2).sum(0)

    hooks = {family.o: attention, family.down: ffn}
    handles = [
        layer.get_submodule(name).register_forward_pre_hook(hooks[name])
        for name in family.outputs(layer)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _turned(before: Tensor, after: Tensor) -> float:
    """The sum over tokens of 1 - cosine."""
    return float((1 - F.cosine_similarity(before.float(), after.float(), dim=-1)).sum())


def _by_gradient(
    model: nn.Module, family: Family, shape: Shape, rows: list[Tensor], recompute: bool
) -> Importance:
    layers, device = family.layer_list(model), next(model.parameters()).device
    sizes = ((family.o, shape.num_attention_heads), (family.down, shape.intermediate_size))
    masks = [
        {name: torch.ones(size, device=device, requires_grad=True) for name, size in sizes}
        for _ in layers
    ]
    sums = [{name: torch.zeros(size) for name, size in sizes} for _ in layers]
    influence, tokens = torch.zeros(len(layers), dtype=torch.float64), 0
    experts: dict[int, Usage] = {}
    model.requires_grad_(False)

    def scaled(mask: Tensor) -> Any:
        return lambda _module, args: (
            (args[0].unflatten(-1, (len(mask), -1)) * mask.unsqueeze(-1)).flatten(-2),
            *args[1:],
        )

    def turned(i: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            influence[i] += _turned(
                args[0].detach(), (output[0] if isinstance(output, tuple) else output).detach()
            )

        return hook

    with ExitStack() as stack, progress("scoring heads and neurons", len(rows)) as bar:
        for i, layer in enumerate(layers):
            for name in family.outputs(layer):
                stack.callback(
                    layer.get_submodule(name)
                    .register_forward_pre_hook(scaled(masks[i][name]))
                    .remove
                )
            usage = stack.enter_context(watched(layer, i, family, shape))
            experts |= {i: usage} if usage else {}
            stack.callback(layer.register_forward_hook(turned(i)).remove)
            if recompute:
                stack.enter_context(_recomputed(layer))
        for row in rows:
            _backward(model, row.to(device))
            tokens += row.shape[1]
            for mask, total in (
                (masks[i][name], sums[i][name]) for i in range(len(layers)) for name, _ in sizes
            ):
                total += 0 if mask.grad is None else mask.grad.abs().cpu().float()
                mask.grad = None
            bar.advance()
    heads, neurons = (
        torch.stack([of[name] for of in sums]) / max(len(rows), 1) for name, _ in sizes
    )
    return Importance(heads, neurons, (influence / max(tokens, 1)).float(), experts)


def _backward(model: nn.Module, row: Tensor) -> None:
    """The gradient of a row's loss with respect to the masks; of a row without a label there is none."""
    labelled = bool((row[1, 1:] >= 0).any())
    with torch.set_grad_enabled(labelled):
        logits = model(input_ids=row[:1], use_cache=False).logits
        if labelled:
            F.cross_entropy(logits[0, :-1].float(), row[1, 1:], ignore_index=-100).backward()


@contextmanager
def _recomputed(layer: nn.Module) -> Iterator[None]:
    """While this lasts, nothing inside the layer is kept for the backward pass. Hooks on the layer itself run once, those inside twice."""
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )
    try:
        yield
    finally:
        del layer.forward


def _static_scores(
    layer: nn.Module, seen: _Seen, family: Family, shape: Shape, criterion: str, seed: int
) -> tuple[Tensor, Tensor]:
    o = weight_of(layer.get_submodule(family.o)).float().cpu()
    dense = family.down in family.outputs(layer)
    down = (
        weight_of(layer.get_submodule(family.down)).float().cpu()
        if dense
        else torch.zeros(1, shape.intermediate_size)
    )
    tokens = max(seen.tokens, 1)

    def by_head(columns: Tensor) -> Tensor:
        return columns.view(shape.num_attention_heads, shape.head_dim).sum(-1)

    if criterion == "magnitude":
        v = weight_of(layer.get_submodule(family.v)).float().cpu()
        return _circuit_norms(o, v, shape), down.norm(dim=0)
    if criterion == "activation":
        attention, ffn = (
            torch.as_tensor(seen.attention_square).cpu(),
            torch.as_tensor(seen.ffn_square).cpu(),
        )
        return by_head(o.abs().sum(0) * (attention / tokens).sqrt()), down.abs().sum(0) * (
            ffn / tokens
        ).sqrt()
    if criterion == "norm":
        return torch.as_tensor(seen.head_norm).cpu() / tokens, torch.as_tensor(
            seen.neuron_norm
        ).cpu() / tokens
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape.num_attention_heads, generator=generator), torch.rand(
        shape.intermediate_size, generator=generator
    )


def _circuit_norms(o: Tensor, v: Tensor, shape: Shape) -> Tensor:
    """Frobenius norm [heads] of W_O W_V for every query head: the one product of its weights that its scale depends on.

    Of o_proj alone the norm says little, since what scales up there can be scaled down in v_proj. With A = W_O^T W_O and
    B = W_V W_V^T, both [head_dim, head_dim], it is the square root of tr(A B).
    """
    outputs = o.view(len(o), shape.num_attention_heads, shape.head_dim).transpose(0, 1)
    values = v.view(shape.num_key_value_heads, shape.head_dim, -1).repeat_interleave(shape.group, 0)
    return ((outputs.mT @ outputs) * (values @ values.mT)).sum((1, 2)).clamp_min(0).sqrt()


@contextmanager
def masked(model: nn.Module, family: Family, shape: Shape, kept: Kept) -> Iterator[None]:
    """The model as it is after a cut, without cutting: only the kept heads, neurons, experts and layers contribute.

    Args:
        model: the uncut model.
        family: whose names to use.
        shape: its sizes.
        kept: what stays.
    """
    with ExitStack() as stack:
        for i, layer in enumerate(family.layer_list(model)):
            stack.enter_context(masked_layer(layer, i, family, shape, kept))
        yield


@contextmanager
def masked_layer(
    layer: nn.Module, index: int, family: Family, shape: Shape, kept: Kept
) -> Iterator[None]:
    """`masked`, for one decoder layer."""
    if index in kept.layers:
        heads, neurons = (
            torch.zeros(shape.num_attention_heads),
            torch.zeros(shape.intermediate_size),
        )
        heads[kept.heads[index]] = neurons[kept.neurons[index]] = 1
        masks = {family.o: heads.repeat_interleave(shape.head_dim), family.down: neurons}
        handles = [
            layer.get_submodule(name).register_forward_pre_hook(_multiplier(masks[name]))
            for name in family.outputs(layer)
        ]
        if routed := kept.routed(index):
            handles.append(mask_router(layer, family, shape, routed))
    else:
        handles = [layer.register_forward_hook(_skip)]
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
