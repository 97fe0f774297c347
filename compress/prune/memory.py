"""How much memory pruning takes on this machine, from config.json alone."""

from __future__ import annotations

from ...checkpoints.files import stored_dtype
from ...models import Architecture
from .compensate import ROWS_AT_ONCE, TOKENS_AT_ONCE
from .criteria import CRITERIA

__all__ = ["prune_memory"]

OVERHEAD = 150 << 20
"""Bytes for tokenizer, code and the allocator's reserve; measured."""


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
    """Peak memory of scoring, refit and cut, beyond a process with torch and transformers loaded.

    - A criterion that needs gradients loads the model in float32. Beside it is first the mapped
      file, then the activations of one layer and the logits of a row with their gradient.
    - Everything else goes layer by layer: one layer in float32, and hidden states up to their
      budget. A layer of experts is there twice, as its file stores the experts fused.
    - The embedding is written in its stored dtype while the allocator still holds a layer's memory.
    - The refit adds two Hessians of the widest projection in float32, and one in float64.
    - The final comparison is not counted: it is streamed if the result does not fit.

    Args:
        architecture: of the model to prune.
        small: of the pruned model.
        criterion: name of the criterion.
        tokens: of all calibration rows together.
        seq_len: tokens in a row.
        activation_budget: bytes of hidden states kept in memory.
        compensate: whether the output projections are refitted.

    Returns:
        Bytes.
    """
    stored = stored_dtype(architecture.config).itemsize
    hidden, experts = architecture.hidden_size, architecture.experts
    layer = architecture.weights_of_all_kinds
    widths = _activation_widths(architecture)
    states = min(activation_budget, (4 if compensate else 1) * 4 * tokens * hidden)
    embedding = stored * architecture.vocab_size * hidden
    walk = (4 + stored * (2 if experts else 1)) * layer + states + 4 * seq_len * widths
    needs = [embedding + walk]
    if compensate:
        widest, outputs = max((li.in_features, li.out_features) for li in small.linear_counts())
        together = max(seq_len, min(tokens // 8, ROWS_AT_ONCE * seq_len, TOKENS_AT_ONCE))
        needs.append(walk + 16 * widest**2 + 5 * 8 * widest * outputs + 4 * together * widths)
    if CRITERIA[criterion].needs_gradient:
        needs += _gradient_needs(architecture, stored, seq_len, widths)
    return OVERHEAD + max(needs)


def _activation_widths(architecture: Architecture) -> int:
    """Values that the activations of one decoder layer take for a token."""
    experts = architecture.experts
    # To count their usage, experts run a second time, one expert a token.
    times = 2 * experts.per_token if experts else 1
    outputs_of_all = sum(linear.out_features for linear in architecture.linear_counts())
    return 6 * architecture.hidden_size + times * outputs_of_all + architecture.intermediate_size


def _gradient_needs(
    architecture: Architecture, stored: int, seq_len: int, widths: int
) -> tuple[int, int]:
    """Bytes for a criterion that needs gradients: while the model loads, and while it runs.

    Args:
        architecture: of the model to prune.
        stored: bytes of a stored weight.
        seq_len: tokens in a row.
        widths: values that the activations of a layer take for a token.
    """
    parameters = architecture.parameters
    return (
        (4 + stored) * parameters,
        4 * parameters + 4 * 4 * seq_len * architecture.vocab_size + 4 * seq_len * widths,
    )
