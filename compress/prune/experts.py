"""Experts of a mixture: how much each is used and matters, which of them stay, and how even their load is.

An expert's importance is the share of tokens that go to it times the mean norm of what it adds to them, weighted by its gate:
REAP (Lasby et al. 2025, "REAP the Experts", arXiv 2510.13999), which leaves the share out, times that share, so that an expert
that speaks up rarely counts for little. Every layer loses the same number of experts, each layer its own.
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
    """What the experts of one layer did, each a tensor [experts]."""

    routed: Tensor
    """Tokens that went to each."""
    norms: Tensor
    """Sum over those tokens of the norm of the expert's output, times its gate."""
    tokens: int = 0

    @property
    def importance(self) -> Tensor:
        """Share of tokens times mean norm, which is the sum of norms a token of the text."""
        return self.norms / max(self.tokens, 1)


def choose_experts(
    usage: Mapping[int, ExpertUsage], layers: int, keep: int, seed: int | None = None
) -> list[list[int]]:
    """The most important experts of every layer, ascending; an empty list for a dense layer.

    Args:
        usage: by layer, as `counting_usage` gives it.
        layers: of the model.
        keep: experts that stay in each.
        seed: choose at random, to compare with.
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
    """Count, while a decoder layer runs, what its experts do; None where it has none.

    Only what the layer does when it is called counts: not what is computed again on the way back of a gradient.

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
    """A hook on a pool of experts: it is called with tokens [tokens, width], their experts and gates, both [tokens, top k]."""

    @torch.no_grad()
    def hook(pool: nn.Module, args: tuple[Tensor, Tensor, Tensor]) -> None:
        hidden, chosen, gates = args
        # Each choice as a token of its own, through the pool itself: what one expert adds to a token is nowhere else to be seen.
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
    """Let a layer route to some experts only, until the handle is removed.

    The logits of the other experts become -inf before the softmax.

    Args:
        module: a decoder layer that has experts.
        experts: its FFN.
        stay: the experts that tokens may go to.
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
    """A decoder layer without the experts that go and their rows of the router; those that stay are renumbered.

    Args:
        state: tensors of the layer, by their names within it.
        layer: its description.
        stay: experts that stay; an empty list for a layer that keeps all or has none.
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
    """How even the load of experts is.

    Args:
        routed: tokens that went to each expert [experts].

    Returns:
        `entropy` of the shares over that of equal ones (1 is even), `busiest`: the largest share over the mean (1 is even),
        and `unused`: experts that got nothing.
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
    """One entry a layer that has experts and stays: importance, what was removed, and the balance before and after."""
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
    """What `expert_details` found, in one line."""

    def mean(*path: str) -> float:
        values = [e[path[0]] if len(path) == 1 else e[path[0]][path[1]] for e in entries]
        return sum(values) / len(values)

    whole, gone = len(entries[0]["importance"]), len(entries[0]["removed"])
    return (
        f"experts {whole} -> {whole - gone} in each of {len(entries)} layers, which {mean('removed_share'):.1%} of the tokens' choices "
        f"went to; load balance (entropy, 1 is even) {mean('before', 'entropy'):.3f} -> {mean('after', 'entropy'):.3f}, "
        f"busiest expert {mean('before', 'busiest'):.2f} -> {mean('after', 'busiest'):.2f} times the mean"
    )
