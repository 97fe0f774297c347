"""Experts of a mixture: their importance, which of them stay, and how evenly tokens are spread.

An expert's importance is the share of tokens routed to it, times the mean norm of its gated output.
The mean norm is the score of REAP (Lasby et al. 2025, "REAP the Experts", arXiv 2510.13999). The
share is added so that a rarely used expert scores low. Every layer loses the same number of
experts; which ones is decided for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...models import ExpertsFFN, Layer
from ...models.blocks.expert_storage import split_experts

__all__ = [
    "ExpertUsage",
    "balance",
    "choose_experts",
    "counting_usage",
    "cut_experts",
    "expert_details",
    "expert_note",
    "mask_router",
]


@dataclass
class ExpertUsage:
    """How the experts of one layer were used on calibration text.

    Attributes:
        routed: [experts], tokens routed to each.
        norms: [experts], sum over those tokens of the norm of the expert's output times its gate.
        tokens: tokens that the layer saw.
    """

    routed: Tensor
    norms: Tensor
    tokens: int = 0

    @property
    def importance(self) -> Tensor:
        """Share of tokens times mean norm [experts]: the sum of norms divided by all tokens."""
        return self.norms / max(self.tokens, 1)


def choose_experts(
    usage: Mapping[int, ExpertUsage], layers: int, keep: int, seed: int | None = None
) -> list[list[int]]:
    """The most important experts of every layer, ascending; an empty list for a dense layer.

    Args:
        usage: by layer, as `counting_usage` gives it.
        layers: number of layers of the model.
        keep: experts that stay in each layer.
        seed: if given, choose at random instead.
    """

    def order(layer: int) -> Tensor:
        if seed is None:
            return usage[layer].importance.argsort(descending=True, stable=True)
        return torch.randperm(
            len(usage[layer].routed), generator=torch.Generator().manual_seed(seed + layer)
        )

    return [sorted(order(i)[:keep].tolist()) if i in usage else [] for i in range(layers)]


@contextmanager
def counting_usage(module: nn.Module, layer: Layer) -> Iterator[ExpertUsage | None]:
    """While this lasts, count how a decoder layer uses its experts; None if it has none.

    Only calls of the layer count. What a backward pass computes again does not.

    Args:
        module: the decoder layer.
        layer: its description.
    """
    if layer.experts is None:
        yield None
        return
    usage = ExpertUsage(torch.zeros(layer.experts.count), torch.zeros(layer.experts.count))
    pool = module.get_submodule(layer.experts.pool)
    counting: list[RemovableHandle] = []

    def begin(_layer: nn.Module, _args: Any) -> None:
        counting.append(pool.register_forward_pre_hook(_counter(usage)))

    def end(_layer: nn.Module, _args: Any, _output: Any) -> None:
        counting.pop().remove()

    handles = [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield usage
    finally:
        for handle in [*handles, *counting]:
            handle.remove()


def _counter(usage: ExpertUsage) -> Any:
    """A hook on a pool of experts.

    The pool gets tokens [tokens, width], and their experts and gates, both [tokens, top k].
    """

    @torch.no_grad()
    def hook(pool: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
        hidden, chosen, gates = args
        # The pool returns only the sum over a token's experts. So run it once more with one expert
        # a token, which gives the output of each expert.
        alone = hidden.repeat_interleave(chosen.shape[1], dim=0)
        added = (
            pool.forward(alone, chosen.reshape(-1, 1), gates.reshape(-1, 1))
            .float()
            .norm(dim=-1)
            .cpu()
        )
        experts = chosen.flatten().cpu()
        usage.routed += torch.bincount(experts, minlength=len(usage.routed))
        usage.norms.index_add_(0, experts, added)
        usage.tokens += len(hidden)

    return hook


def mask_router(module: nn.Module, experts: ExpertsFFN, stay: list[int]) -> RemovableHandle:
    """Restrict a layer's router to some experts, until the handle is removed.

    The logits of the other experts become -inf before the softmax.

    Args:
        module: a decoder layer that has experts.
        experts: its FFN.
        stay: the experts that tokens may be routed to.
    """

    def hook(
        _module: nn.Module, _args: Any, output: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits, gates, _ = output
        masked = torch.full_like(logits, -math.inf)
        masked[:, stay] = logits[:, stay]
        top, chosen = masked.float().softmax(-1).topk(experts.per_token, dim=-1)
        if experts.renormalize:
            top = top / top.sum(-1, keepdim=True)
        return masked, top.to(gates.dtype), chosen

    return module.get_submodule(experts.router).register_forward_hook(hook)


def cut_experts(state: Mapping[str, Tensor], layer: Layer, stay: list[int]) -> Mapping[str, Tensor]:
    """Remove experts and their router rows from a decoder layer, and renumber the others.

    Args:
        state: tensors of the layer, by their names within it.
        layer: its description.
        stay: experts that stay; empty if the layer keeps all of them or has none.
    """
    experts = layer.experts
    if not stay or experts is None:
        return state
    router = experts.routers[0]
    small: dict[str, Tensor] = {}
    for key, tensor in split_experts(experts, state).items():  # some files have fused experts
        name, _, part = key.rpartition(".")
        expert = experts.expert_of(name)
        if expert is None:
            small[key] = tensor[stay] if name == router else tensor
        elif expert[0] in stay:
            small[f"{experts.expert_name(stay.index(expert[0]), expert[1])}.{part}"] = tensor
    return small


def balance(routed: Tensor) -> dict[str, float]:
    """How evenly tokens are spread over experts.

    Args:
        routed: tokens routed to each expert [experts].

    Returns:
        `entropy`: of the shares, divided by that of equal shares (1 is even);
        `busiest`: the largest share divided by the mean share (1 is even);
        `unused`: number of experts without a token.
    """
    shares = routed.double() / routed.sum().clamp_min(1)
    most = math.log(max(len(routed), 2))
    entropy = float(torch.special.entr(shares).sum()) / most if len(routed) > 1 else 1.0
    return {
        "entropy": entropy,
        "busiest": float(shares.max()) * len(routed),
        "unused": int((routed == 0).sum()),
    }


def expert_details(
    before: Mapping[int, ExpertUsage], after: Mapping[int, ExpertUsage], kept: list[list[int]]
) -> list[dict[str, Any]]:
    """The entries of the result, one for each layer that has experts and stays.

    Args:
        before: how the experts of the original were used, by layer.
        after: the same for the pruned model.
        kept: experts that stay, for each layer; empty if all stay.

    Returns:
        For each layer: importance, removed experts, their share of the tokens, and the balance
        before and after.
    """
    entries = []
    for layer, usage in before.items():
        if layer not in after or not after[layer].tokens:
            continue
        stay = kept[layer] if kept else list(range(len(usage.routed)))
        gone = sorted(set(range(len(usage.routed))) - set(stay))
        entries.append(
            {
                "layer": layer,
                "importance": usage.importance.tolist(),
                "removed": gone,
                "removed_share": float(usage.routed[gone].sum() / usage.routed.sum().clamp_min(1)),
                "before": balance(usage.routed),
                "after": balance(after[layer].routed[stay]),
            }
        )
    return entries


def expert_note(entries: list[dict[str, Any]]) -> str:
    """One line for the notes: the means of the entries of `expert_details`."""

    def mean(*path: str) -> float:
        values = [e[path[0]] if len(path) == 1 else e[path[0]][path[1]] for e in entries]
        return sum(values) / len(values)

    whole = len(entries[0]["importance"])
    gone = len(entries[0]["removed"])
    return (
        f"experts {whole} -> {whole - gone} in each of {len(entries)} layers; the removed ones got "
        f"{mean('removed_share'):.1%} of the routed tokens; load balance (entropy, 1 is even) "
        f"{mean('before', 'entropy'):.3f} -> {mean('after', 'entropy'):.3f}, busiest expert "
        f"{mean('before', 'busiest'):.2f} -> {mean('after', 'busiest'):.2f} times the mean"
    )
