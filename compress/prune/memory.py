"""How much memory pruning takes on this machine, from config.json alone."""

from __future__ import annotations

from ...checkpoints.loading import fits_in_memory
from ...checkpoints.tensors import stored_dtype
from ...models import Architecture
from ...steps.options import Proof
from .compensate import ROWS_AT_ONCE, TOKENS_AT_ONCE
from .criteria import CRITERIA

__all__ = ["proof_memory", "prune_memory", "whole_memory"]

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
    - The final comparison is not counted; see `proof_memory`.

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
        needs.append(
            embedding + walk + 16 * widest**2 + 5 * 8 * widest * outputs + 4 * together * widths
        )
    if CRITERIA[criterion].needs_gradient:
        needs += _gradient_needs(architecture, stored, seq_len, widths)
    return OVERHEAD + max(needs)


def proof_memory(small: Architecture, seq_len: int, proof: Proof) -> int:
    """Peak memory of the final comparison with stock transformers, which loads the result whole.

    A model that does not fit is streamed instead, which takes less than the cut itself.

    Args:
        small: architecture of the pruned model.
        seq_len: tokens of the row that is compared.
        proof: as asked for.
    """
    if proof == "streamed" or (proof == "auto" and not fits_in_memory(small.parameters)):
        return 0
    return OVERHEAD + 4 * small.parameters + 2 * 4 * seq_len * small.vocab_size


def whole_memory(architecture: Architecture, tokens: int, seq_len: int) -> int:
    """Peak memory of merging key/value heads and of 2:4 sparsity, which load the model whole.

    The model in float32 and as it is stored is still there when the result is loaded to compare.

    Args:
        architecture: of the model.
        tokens: of all calibration rows whose hidden states are kept.
        seq_len: tokens of the row that is compared.
    """
    stored = stored_dtype(architecture.config).itemsize
    widest = max(linear.in_features for linear in architecture.linear_counts())
    work = 4 * tokens * architecture.hidden_size + 2 * 4 * widest**2
    logits = 3 * 4 * seq_len * architecture.vocab_size
    return (
        OVERHEAD
        + (4 + stored) * architecture.parameters
        + max(work, 4 * architecture.parameters + logits)
    )


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
