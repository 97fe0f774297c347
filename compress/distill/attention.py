"""Attention maps aligned beside the hidden states (Wang et al. 2020, section 3.1).

Maps [rows, heads, seq, seq] exist only where attention runs in the "eager" implementation. Their
memory grows with the square of the row length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.free_memory import free_memory
from ...errors import Refused, UsageError
from ...models import Architecture
from .losses import attention_kl
from .objectives import HiddenAlignment, layer_pairs

__all__ = ["AttentionAlignment", "check_maps", "eager_attention", "summarize_maps"]


class AttentionAlignment(HiddenAlignment):
    """The loss of `HiddenAlignment` plus a weighted divergence of the attention maps.

    Both parts use the same pairs of layers.

    Args:
        student: the causal language model that is trained, with eager attention.
        teacher: the frozen one, also with eager attention.
        pairs: see `HiddenAlignment`; layer 0, the embedding, is not allowed: it has no attention.
        weight: weight of the divergence of the maps.
    """

    def __init__(
        self, student: Any, teacher: Any, pairs: Sequence[tuple[int, int]] | None, weight: float
    ) -> None:
        super().__init__(student, teacher, pairs)
        self.weight = weight

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the pairs for a batch [batch, seq]; prompts count too."""
        with torch.no_grad():
            teacher = _states_and_maps(self._teacher[0], ids)
        student = _states_and_maps(self.student, ids)
        maps = [
            attention_kl(student.attentions[i - 1], teacher.attentions[j - 1])
            for i, j in self.pairs
        ]
        return (
            self.alignment_loss(student.hidden_states, teacher.hidden_states, labels)
            + self.weight * torch.stack(maps).mean()
        )


def _states_and_maps(model: Any, ids: Tensor) -> Any:
    """Run the decoder and return its hidden states and attention maps."""
    return model.get_decoder()(
        input_ids=ids, use_cache=False, output_hidden_states=True, output_attentions=True
    )


@contextmanager
def eager_attention(*models: Any) -> Iterator[None]:
    """Switch models to eager attention, which returns its maps, until the block ends."""
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, implementation in zip(models, before, strict=True):
            model.set_attn_implementation(implementation)


def check_maps(
    teacher: Architecture,
    student: Architecture,
    layers: Sequence[tuple[int, int]] | None,
    seq_len: int,
) -> None:
    """Check that the attention maps of every pair of layers can be compared.

    Args:
        teacher: its architecture.
        student: its architecture.
        layers: pairs of student and teacher layers; None: spread evenly over the depth.
        seq_len: tokens per row.

    Raises:
        UsageError: a pair names the embedding.
        Refused: a student layer sees fewer tokens than the teacher layer it is paired with.
    """
    windows = [
        [layer.attention.seen(seq_len) for layer in model.layers] for model in (student, teacher)
    ]
    for i, j in layers or layer_pairs(*map(len, windows)):
        if not i or not j:
            raise UsageError(
                f"layers {[i, j]}: 0 is the embedding, which has no attention map",
                "list pairs from 1 on, or no `attention`",
            )
        if windows[0][i - 1] < windows[1][j - 1]:
            raise Refused(
                f"layers {[i, j]}: the student's sees {windows[0][i - 1]} tokens back and the "
                f"teacher's {windows[1][j - 1]}, so their attention maps cannot be the same",
                "pair layers that see equally far, with `layers`; lower --seq-len to the window; "
                "or leave `attention` out",
            )


def summarize_maps(
    teacher: Architecture, student: Architecture, rows: int, seq_len: int, device: str
) -> str:
    """Return one line about the memory that the attention maps of a batch take.

    Raises:
        Refused: the maps need more memory than is free.
    """
    counts = [[layer.attention.sizes.heads for layer in m.layers] for m in (student, teacher)]
    heads = sum(map(sum, counts))
    needed = 4 * heads * rows * seq_len**2
    free = free_memory(device)
    size = f"attention maps of {rows} rows of {seq_len} tokens take {needed / 1e9:.2g} GB at a time"
    if free is not None and needed > free:
        raise Refused(
            f"{size}, and {free / 1e9:.2g} GB are free",
            "raise --accumulate, or lower --seq-len or --batch-size",
        )
    unlike = (
        " (averaged over heads, whose numbers differ)"
        if len({count for model in counts for count in model}) > 1
        else ""
    )
    return f"{size}, and about twice as much during training{unlike}"
