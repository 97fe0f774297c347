"""What pruning needs of this machine's memory, from config.json alone."""

from __future__ import annotations

from ...checkpoints.files import stored_dtype
from ...models import Architecture
from .compensate import ROWS_AT_ONCE, TOKENS_AT_ONCE
from .criteria import CRITERIA

__all__ = ["prune_memory"]

OVERHEAD = 150 << 20
"""The code of the model and of the tokenizer, and what the products and the allocator keep for themselves; measured."""


def prune_memory(
    architecture: Architecture,
    small: Architecture,
    criterion: str,
    tokens: int,
    seq_len: int,
    activation_budget: int,
    *,
    compensate: bool,
) -> int:
    """Bytes that scoring, refitting and cutting take at their highest, above a process that has torch and transformers loaded.

    The gradient needs the model in float32, and beside it first its file, which is mapped while it is read, then one layer's
    activations and the logits of a row with their gradient. Everything else goes layer by layer: one layer in float32, and the
    hidden states within their budget. The embedding is written as it is stored, when the allocator has not given back what the
    layers took. The experts of a layer are there once more as they are stored, fused. The refit adds two Gram matrices of the
    widest projection in float32 and one in float64. Loading the result to prove it right is not counted: that is streamed where
    it would not fit.

    Args:
        architecture: of the model to prune.
        small: of what stays of it.
        criterion: of the importance.
        tokens: of all calibration rows together.
        seq_len: tokens a row.
        activation_budget: bytes of hidden states that are kept in memory.
        compensate: whether the output projections are refitted.
    """
    stored = stored_dtype(architecture.config).itemsize
    hidden, experts = architecture.hidden_size, architecture.experts
    kinds = architecture.linear_counts()
    layer = architecture.weights_of_all_kinds
    # Each expert's share of a token is computed by itself as well.
    times = 2 * experts.per_token if experts else 1
    outputs_of_all = sum(linear.out_features for linear in kinds)
    widths = 6 * hidden + times * outputs_of_all + architecture.intermediate_size  # for a token
    states = min(activation_budget, (4 if compensate else 1) * 4 * tokens * hidden)
    embedding = stored * architecture.vocab_size * hidden
    walk = (4 + stored * (2 if experts else 1)) * layer + states + 4 * seq_len * widths
    needs = [embedding + walk]
    if compensate:
        widest, outputs = max((li.in_features, li.out_features) for li in small.linear_counts())
        together = max(seq_len, min(tokens // 8, ROWS_AT_ONCE * seq_len, TOKENS_AT_ONCE))
        needs.append(walk + 16 * widest**2 + 5 * 8 * widest * outputs + 4 * together * widths)
    if CRITERIA[criterion].needs_gradient:
        parameters = architecture.parameters
        needs += [
            (4 + stored) * parameters,
            4 * parameters + 4 * 4 * seq_len * architecture.vocab_size + 4 * seq_len * widths,
        ]
    return OVERHEAD + max(needs)
