"""Nucleus sampling in torch. `export/onnx/sampling.py` does the same in numpy for devices."""

from __future__ import annotations

from torch import Tensor

__all__ = ["nucleus_sample"]


def nucleus_sample(
    logits: Tensor, temperature: float, top_p: float, uniform: Tensor, top_k: int = 0
) -> Tensor:
    """Draw a token for each row by nucleus sampling (Holtzman et al. 2019, section 3.1).

    A token is drawn from the smallest set of most probable tokens whose probability is `top_p`.

    Args:
        logits: [rows, vocab].
        temperature: divides the logits; 0 always gives the most probable token.
        top_p: in (0, 1].
        uniform: [rows], random numbers in [0, 1): positions in the cumulative distribution.
        top_k: first keep only so many of the most probable tokens; 0: all of them.

    Returns:
        int64 [rows].
    """
    if temperature == 0:
        return logits.argmax(-1)
    if 0 < top_k < logits.shape[-1]:
        logits, tokens = logits.topk(top_k)
        drawn = nucleus_sample(logits, temperature, top_p, uniform)
        return tokens.gather(-1, drawn[:, None])[:, 0]
    shares = (logits.float() / temperature).softmax(-1)
    probabilities, order = shares.sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    inside = (reached - probabilities < top_p).sum(-1, keepdim=True)  # at least the first
    mass = reached.gather(-1, inside - 1)
    drawn = (reached <= uniform.unsqueeze(-1) * mass).sum(-1, keepdim=True).minimum(inside - 1)
    return order.gather(-1, drawn)[:, 0]
