"""Attention maps aligned beside hidden states (Wang et al. 2020, section 3.1): where a student's layers look, and its teacher's.

Maps [rows, heads, seq, seq] exist only where attention is computed in the open ("eager"), which takes memory that grows with the square of
the row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...checkpoints.loading import free_memory
from ...errors import Refused, UsageError
from ...models import Family
from .losses import attention_kl
from .objectives import HiddenAlignment, layer_pairs

__all__ = ["AttentionAlignment", "check_maps", "eager", "maps_told"]

Model = tuple[Family, Mapping[str, Any]]
"""A model's family and config."""


class AttentionAlignment(HiddenAlignment):
    """The error of hidden states, plus a share of the divergence of attention maps, of the same pairs of layers.

    Args:
        student: the causal language model that learns, its attention eager.
        teacher: the frozen one, likewise.
        pairs: see `HiddenAlignment`; none of layer 0, which has no attention.
        weight: of the maps' divergence.
    """

    def __init__(
        self, student: Any, teacher: Any, pairs: Sequence[tuple[int, int]] | None, weight: float
    ) -> None:
        super().__init__(student, teacher, pairs)
        self.weight = weight

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the pairs for a batch [batch, seq]; every real position counts, prompts too."""
        with torch.no_grad():
            teacher = _looked_into(self._teacher[0], ids)
        student = _looked_into(self.student, ids)
        maps = [
            attention_kl(student.attentions[i - 1], teacher.attentions[j - 1])
            for i, j in self.pairs
        ]
        return (
            self.aligned(student.hidden_states, teacher.hidden_states, labels)
            + self.weight * torch.stack(maps).mean()
        )


def _looked_into(model: Any, ids: Tensor) -> Any:
    return model.get_decoder()(
        input_ids=ids, use_cache=False, output_hidden_states=True, output_attentions=True
    )


@contextmanager
def eager(*models: Any) -> Iterator[None]:
    """While this lasts, models compute their attention maps in the open."""
    before = [model.config._attn_implementation for model in models]
    for model in models:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, implementation in zip(models, before, strict=True):
            model.set_attn_implementation(implementation)


def check_maps(
    teacher: Model, student: Model, layers: Sequence[tuple[int, int]] | None, seq_len: int
) -> None:
    """Stop where maps cannot be compared.

    Raises:
        UsageError: a pair names the embedding.
        Refused: a student's layer does not see as far back as the teacher's that it is paired with.
    """
    depths = [family.shape(config).num_hidden_layers for family, config in (student, teacher)]
    windows = [
        [min(kind.window or seq_len, seq_len) for kind in family.layer_kinds(config)]
        for family, config in (student, teacher)
    ]
    for i, j in layers or layer_pairs(*depths):
        if not i or not j:
            raise UsageError(
                f"layers {[i, j]}: 0 is the embedding, which has no attention map",
                "list pairs from 1 on, or no `attention`",
            )
        if windows[0][i - 1] < windows[1][j - 1]:
            raise Refused(
                f"layers {[i, j]}: the student's sees {windows[0][i - 1]} tokens back and the teacher's {windows[1][j - 1]}, so that its "
                "attention cannot be the same",
                "pair layers that see as far, with `layers`; lower --seq-len to the window; or leave `attention` out",
            )


def maps_told(teacher: Model, student: Model, rows: int, seq_len: int, device: str) -> str:
    """What the maps of a batch take, for people.

    Raises:
        Refused: more than there is.
    """
    shapes = [family.shape(config) for family, config in (student, teacher)]
    heads = sum(shape.num_hidden_layers * shape.num_attention_heads for shape in shapes)
    needed, free = 4 * heads * rows * seq_len**2, free_memory(device)
    size = f"attention maps of {rows} rows of {seq_len} tokens take {needed / 1e9:.2g} GB at a time"
    if free is not None and needed > free:
        raise Refused(
            f"{size}, and {free / 1e9:.2g} GB are free",
            "raise --accumulate, or lower --seq-len or --batch-size",
        )
    unlike = (
        " (averaged over heads, whose numbers differ)"
        if len({shape.num_attention_heads for shape in shapes}) > 1
        else ""
    )
    return f"{size}, and about twice that again while the student learns{unlike}"
