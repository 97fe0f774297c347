"""The distillation losses, as tensor functions: a mean over the scored tokens, zero where student equals teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...data.packing import IGNORE

__all__ = ["hidden_mse", "logit_kl", "next_token_loss"]


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [batch, seq, vocab] with the labels [batch, seq] one position on."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE)


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of hidden states [batch, seq, width], relative to the mean square of the teacher's.

    Only positions where mask [batch, seq] is true count. Dividing by the teacher's power keeps early and late layers,
    whose magnitudes differ by orders, in one sum (hidden-state alignment: Jiao et al. 2020, section 3).
    """
    target = teacher[mask].float()
    return F.mse_loss(student[mask].float(), target) / target.pow(2).mean().clamp_min(1e-12)


def logit_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 1.0, chunk: int = 1024) -> Tensor:
    """True forward KL(teacher || student), mean per scored token, times temperature squared (Hinton et al. 2015, section 2).

    Args:
        student: logits [batch, seq, vocab].
        teacher: logits of the same shape; no gradient flows into them.
        labels: [batch, seq]; a position counts when the label that follows it is scored.
        temperature: softens both distributions.
        chunk: tokens at a time, so that no float32 [tokens, vocab] tensor is ever whole.
    """
    scored = labels[:, 1:] != IGNORE
    s, t = student[:, :-1][scored], teacher[:, :-1][scored]
    if not len(s):
        return student.sum() * 0.0
    total = torch.zeros((), device=s.device)
    for begin in range(0, len(s), chunk):
        log_p = F.log_softmax(t[begin : begin + chunk].float() / temperature, -1)
        log_q = F.log_softmax(s[begin : begin + chunk].float() / temperature, -1)
        total = total + F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total / len(s) * temperature**2
