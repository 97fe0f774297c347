"""How much each head, FFN neuron and layer matters, measured on calibration rows.

Heads and neurons are scored at the input of the projection that reads them (o_proj, down_proj), where each owns its
slice of channels, so that every criterion is a hook there and no weight gradient is ever formed. All criteria but the
gradient go layer by layer, so that the model need not be in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...checkpoints.streaming import InMemory, Layered
from ...console import progress
from ...models import Architecture, AttentionSizes, Layer, decoder_layers, weight_of
from ..calibration.activation_buffer import ActivationBuffer
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
    architecture: Architecture,
    rows: list[Tensor],
    criterion: Criterion,
    seed: int = 0,
    *,
    recompute: bool = True,
) -> Importance:
    """Score heads, neurons and layers of a loaded model by one criterion.

    Args:
        model: the causal language model, in evaluation mode; left as it was.
        architecture: of the model.
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
        return _by_gradient(model, architecture, rows, recompute)
    return measure_layers(InMemory(model, architecture), rows, criterion, seed)


def measure_layers(
    model: Layered,
    rows: list[Tensor],
    criterion: Criterion,
    seed: int = 0,
    buffer: ActivationBuffer | None = None,
) -> Importance:
    """`measure`, with one layer in memory at a time, by any criterion that needs no gradient.

    Args:
        model: whose layers; left as it was.
        rows: int64 [2, seq] of ids and labels, all of one length.
        criterion: all but `taylor`.
        seed: of the random criterion.
        buffer: where the hidden states of the rows are kept.
    """
    architecture, count = model.architecture, len(model.layers)
    states, calls = first_inputs(model, rows, buffer)
    found = Importance(
        torch.zeros(count, architecture.attention_sizes.heads),
        torch.zeros(count, architecture.intermediate_size),
        torch.zeros(count),
    )
    with torch.no_grad(), progress("scoring heads and neurons", count) as bar:
        for i, (layer, call) in enumerate(zip(architecture.layers, calls, strict=True)):
            with model.held(i) as module:
                with _watched(module, layer) as seen, watched(module, layer) as usage:
                    for row in range(len(states)):
                        before = states[row]
                        after = call(module, before)
                        seen.influence += _turned(before, after)
                        states[row] = after
                seen.tokens = len(states) * states.shape[1]
                found.heads[i] = _head_scores(module, layer, seen, criterion, seed + i)
                found.neurons[i] = _neuron_scores(
                    module, layer, seen, criterion, seed + i, architecture.intermediate_size
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
def _watched(module: nn.Module, layer: Layer) -> Iterator[_Seen]:
    """Gathers statistics of what enters the output projections of a layer."""
    seen, sizes = _Seen(), layer.attention.sizes

    def attention(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].float()
        split = x.view(*x.shape[:-1], sizes.heads, sizes.head_dim)
        seen.attention_square = seen.attention_square + x.pow(2).flatten(0, -2).sum(0)
        seen.head_norm = seen.head_norm + split.norm(dim=-1).flatten(0, -2).sum(0)

    def ffn(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].float()
        seen.ffn_square = seen.ffn_square + x.pow(2).flatten(0, -2).sum(0)
        seen.neuron_norm = seen.neuron_norm + x.abs().flatten(0, -2).sum(0)

    handles = [
        module.get_submodule(branch.block.output).register_forward_pre_hook(hook)
        for branch, hook in zip(layer.branches, (attention, ffn), strict=True)
        if branch.block.output
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
    model: nn.Module, architecture: Architecture, rows: list[Tensor], recompute: bool
) -> Importance:
    modules, device = decoder_layers(model, architecture), next(model.parameters()).device
    counts = architecture.attention_sizes.heads, architecture.intermediate_size
    masks = [
        [torch.ones(count, device=device, requires_grad=True) for count in counts] for _ in modules
    ]
    sums = [[torch.zeros(count) for count in counts] for _ in modules]
    influence, tokens = torch.zeros(len(modules), dtype=torch.float64), 0
    experts: dict[int, Usage] = {}
    model.requires_grad_(False)
    with ExitStack() as stack, progress("scoring heads and neurons", len(rows)) as bar:
        for i, (module, layer) in enumerate(zip(modules, architecture.layers, strict=True)):
            for branch, mask in zip(layer.branches, masks[i], strict=True):
                if branch.block.output:
                    project = module.get_submodule(branch.block.output)
                    stack.callback(project.register_forward_pre_hook(_scaled(mask)).remove)
            usage = stack.enter_context(watched(module, layer))
            experts |= {i: usage} if usage else {}
            stack.callback(module.register_forward_hook(_influence_into(influence, i)).remove)
            if recompute:
                stack.enter_context(_recomputed(module))
        for row in rows:
            _backward(model, row.to(device))
            tokens += row.shape[1]
            for mask, total in zip(chain(*masks), chain(*sums), strict=True):
                total += 0 if mask.grad is None else mask.grad.abs().cpu().float()
                mask.grad = None
            bar.advance()
    heads, neurons = (torch.stack(parts) / max(len(rows), 1) for parts in zip(*sums, strict=True))
    return Importance(heads, neurons, (influence / max(tokens, 1)).float(), experts)


def _scaled(mask: Tensor) -> Any:
    """A hook that multiplies what enters a projection by one factor for each head or neuron."""
    return lambda _module, args: (
        (args[0].unflatten(-1, (len(mask), -1)) * mask.unsqueeze(-1)).flatten(-2),
        *args[1:],
    )


def _influence_into(influence: Tensor, index: int) -> Any:
    """A hook that adds the block influence of a decoder layer to its entry of `influence`."""

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        after = output[0] if isinstance(output, tuple) else output
        influence[index] += _turned(args[0].detach(), after.detach())

    return hook


def _backward(model: nn.Module, row: Tensor) -> None:
    """The gradient of a row's loss with respect to the masks; a row without labels has none."""
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


def _head_scores(module: nn.Module, layer: Layer, seen: _Seen, criterion: str, seed: int) -> Tensor:
    """The importance [heads] of a layer's query heads, by any criterion without a gradient."""
    attention, tokens = layer.attention, max(seen.tokens, 1)
    sizes = attention.sizes
    if criterion == "random":
        return torch.rand(sizes.heads, generator=torch.Generator().manual_seed(seed))
    if criterion == "norm":
        return torch.as_tensor(seen.head_norm).cpu() / tokens
    o = weight_of(module.get_submodule(attention.o.name)).float().cpu()
    if criterion == "magnitude":
        v = weight_of(module.get_submodule(attention.v.name)).float().cpu()
        return _circuit_norms(o, v, sizes)
    square = torch.as_tensor(seen.attention_square).cpu()
    columns = o.abs().sum(0) * (square / tokens).sqrt()
    return columns.view(sizes.heads, sizes.head_dim).sum(-1)


def _neuron_scores(
    module: nn.Module, layer: Layer, seen: _Seen, criterion: str, seed: int, count: int
) -> Tensor:
    """The importance [count] of a layer's FFN neurons; those of experts are not scored."""
    tokens = max(seen.tokens, 1)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        torch.rand(layer.attention.sizes.heads, generator=generator)  # those of the heads
        return torch.rand(count, generator=generator)
    if criterion == "norm":
        return torch.as_tensor(seen.neuron_norm).cpu() / tokens
    if layer.dense_ffn is None:
        return torch.zeros(count)
    down = weight_of(module.get_submodule(layer.dense_ffn.down.name)).float().cpu()
    if criterion == "magnitude":
        return down.norm(dim=0)
    return down.abs().sum(0) * (torch.as_tensor(seen.ffn_square).cpu() / tokens).sqrt()


def _circuit_norms(o: Tensor, v: Tensor, sizes: AttentionSizes) -> Tensor:
    """Frobenius norm [heads] of W_O W_V for every query head.

    This is the one product of its weights that a head's scale depends on: what scales up in
    o_proj can be scaled down in v_proj. With A = W_O^T W_O and B = W_V W_V^T, both
    [head_dim, head_dim], it is the square root of tr(A B).
    """
    outputs = o.view(len(o), sizes.heads, sizes.head_dim).transpose(0, 1)
    values = v.view(sizes.kv_heads, sizes.head_dim, -1).repeat_interleave(sizes.group, 0)
    return ((outputs.mT @ outputs) * (values @ values.mT)).sum((1, 2)).clamp_min(0).sqrt()


@contextmanager
def masked(model: nn.Module, architecture: Architecture, kept: Kept) -> Iterator[None]:
    """The model as it is after a cut, without cutting: only what is kept contributes.

    Args:
        model: the uncut model.
        architecture: its architecture.
        kept: what stays: heads, neurons, experts and layers.
    """
    modules = decoder_layers(model, architecture)
    with ExitStack() as stack:
        for module, layer in zip(modules, architecture.layers, strict=True):
            stack.enter_context(masked_layer(module, layer, kept))
        yield


@contextmanager
def masked_layer(module: nn.Module, layer: Layer, kept: Kept) -> Iterator[None]:
    """`masked`, for one decoder layer."""
    if layer.index not in kept.layers:
        handles = [module.register_forward_hook(_skip)]
    else:
        widths = {linear.name: linear.in_features for linear in layer.linear_counts()}
        handles = [
            module.get_submodule(name).register_forward_pre_hook(
                _multiplier(torch.zeros(widths[name]).index_fill(0, channels, 1))
            )
            for name, channels in kept.inputs(layer).items()
        ]
        routed = kept.routed(layer.index)
        if routed and layer.experts:
            handles.append(mask_router(module, layer.experts, routed))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiplier(mask: Tensor) -> Any:
    """A hook that multiplies the inputs of a projection by a mask [in]."""

    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * mask.to(args[0]), *args[1:])

    return hook


def _skip(_module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
