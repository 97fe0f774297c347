"""Scores a loaded model by gradients of the loss with respect to masks on heads and neurons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ...console import progress
from ...models import Architecture, decoder_layers
from .criterion import GradientCriterion
from .experts import ExpertUsage, counting_usage
from .importance import Importance, block_influence

__all__ = ["score_by_gradient"]


def score_by_gradient(
    model: nn.Module,
    architecture: Architecture,
    rows: list[Tensor],
    criterion: GradientCriterion,
    *,
    recompute: bool = True,
) -> Importance:
    """Score heads, neurons, layers and experts of a loaded model.

    Args:
        model: the causal language model, in evaluation mode; it is left as it was.
        architecture: of the model.
        rows: calibration rows int64 [2, seq] of ids and labels.
        criterion: turns the gradients of a row into its scores.
        recompute: keep only the input of a layer, and compute the layer again in the backward pass
            (Chen et al. 2016, section 3). That needs memory for the activations of one layer, not
            of all. The scores are the same.
    """
    modules = decoder_layers(model, architecture)
    device = next(model.parameters()).device
    counts = architecture.attention_sizes.heads, architecture.intermediate_size
    masks = [
        [torch.ones(count, device=device, requires_grad=True) for count in counts] for _ in modules
    ]
    sums = [[torch.zeros(count) for count in counts] for _ in modules]
    influence = torch.zeros(len(modules), dtype=torch.float64)
    tokens = 0
    experts: dict[int, ExpertUsage] = {}
    model.requires_grad_(False)
    with ExitStack() as stack, progress("scoring heads and neurons", len(rows)) as bar:
        for i, (module, layer) in enumerate(zip(modules, architecture.layers, strict=True)):
            for branch, mask in zip(layer.branches, masks[i], strict=True):
                if branch.block.output:
                    project = module.get_submodule(branch.block.output)
                    stack.callback(project.register_forward_pre_hook(_multiplied(mask)).remove)
            usage = stack.enter_context(counting_usage(module, layer))
            experts |= {i: usage} if usage else {}
            stack.callback(module.register_forward_hook(_influence_into(influence, i)).remove)
            if recompute:
                stack.enter_context(_recomputed(module))
        for row in rows:
            _backward(model, row.to(device))
            tokens += row.shape[1]
            for mask, total in zip(chain(*masks), chain(*sums), strict=True):
                total += 0 if mask.grad is None else criterion.row_scores(mask.grad).cpu().float()
                mask.grad = None
            bar.advance()
    heads, neurons = (torch.stack(parts) / max(len(rows), 1) for parts in zip(*sums, strict=True))
    return Importance(heads, neurons, (influence / max(tokens, 1)).float(), experts)


def _multiplied(mask: Tensor) -> Any:
    """A hook that multiplies the input of a projection by one factor for each head or neuron."""
    return lambda _module, args: (
        (args[0].unflatten(-1, (len(mask), -1)) * mask.unsqueeze(-1)).flatten(-2),
        *args[1:],
    )


def _influence_into(influence: Tensor, index: int) -> Any:
    """A hook that adds the block influence of a decoder layer to its entry of `influence`."""

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        after = output[0] if isinstance(output, tuple) else output
        influence[index] += block_influence(args[0].detach(), after.detach())

    return hook


def _backward(model: nn.Module, row: Tensor) -> None:
    """Compute the gradient of a row's loss with respect to the masks.

    A row without labels has none; it only counts for layers and experts.
    """
    labelled = bool((row[1, 1:] >= 0).any())
    with torch.set_grad_enabled(labelled):
        logits = model(input_ids=row[:1], use_cache=False).logits
        if labelled:
            F.cross_entropy(logits[0, :-1].float(), row[1, 1:], ignore_index=-100).backward()


@contextmanager
def _recomputed(layer: nn.Module) -> Iterator[None]:
    """While this lasts, keep nothing inside the layer for the backward pass.

    Hooks on the layer itself run once. Those inside run twice.
    """
    forward = layer.forward
    layer.forward = lambda *args, **kwargs: checkpoint(
        forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs
    )
    try:
        yield
    finally:
        del layer.forward
