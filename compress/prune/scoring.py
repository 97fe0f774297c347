"""Scores heads, FFN neurons, layers and experts on calibration rows, by one criterion.

Heads and neurons are scored at the input of the projection that reads them (o_proj, down_proj).
There each of them owns its own channels, so a hook sees all that a criterion needs, and no gradient
of a weight is ever computed. Every criterion without a gradient goes layer by layer, so the model
need not fit in memory.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoints.config import read_architecture
from ...checkpoints.loading import load_model
from ...checkpoints.streaming import InMemory, Layered, Streamed
from ...console import progress
from ...models import Architecture
from ..calibration.activation_buffer import ActivationBuffer
from ..calibration.layer_inputs import first_inputs
from .criteria import CRITERIA
from .criterion import GradientCriterion, LayerCriterion
from .experts import counting_usage
from .gradient import score_by_gradient
from .importance import Importance, block_influence
from .layer_statistics import LayerStatistics, observing

__all__ = ["score_checkpoint", "score_layers", "score_model"]


def score_checkpoint(
    source: Path,
    rows: list[Tensor],
    criterion: str,
    seed: int,
    device: str,
    buffer: ActivationBuffer,
) -> Importance:
    """Score a checkpoint on disk; only a criterion that needs gradients loads the whole model.

    Args:
        source: the checkpoint.
        rows: calibration rows int64 [2, seq] of ids and labels, all of one length.
        criterion: name of a criterion.
        seed: of a criterion that draws random numbers.
        device: where to compute.
        buffer: where the hidden states of the rows are kept.
    """
    if CRITERIA[criterion].needs_gradient:
        model = load_model(source, device)
        return score_model(model, read_architecture(source), rows, criterion, seed)
    return score_layers(Streamed(source, device), rows, criterion, seed, buffer)


def score_model(
    model: nn.Module,
    architecture: Architecture,
    rows: list[Tensor],
    criterion: str,
    seed: int = 0,
    *,
    recompute: bool = True,
) -> Importance:
    """Score a loaded model.

    Args:
        model: the causal language model, in evaluation mode; it is left as it was.
        architecture: of the model.
        rows: calibration rows int64 [2, seq] of ids and labels.
        criterion: name of a criterion.
        seed: of a criterion that draws random numbers.
        recompute: see `score_by_gradient`.
    """
    measure = CRITERIA[criterion]
    if isinstance(measure, GradientCriterion):
        return score_by_gradient(model, architecture, rows, measure, recompute=recompute)
    return score_layers(InMemory(model, architecture), rows, criterion, seed)


def score_layers(
    model: Layered,
    rows: list[Tensor],
    criterion: str,
    seed: int = 0,
    buffer: ActivationBuffer | None = None,
) -> Importance:
    """Score a model with one layer in memory at a time.

    Args:
        model: whose layers; it is left as it was.
        rows: calibration rows int64 [2, seq] of ids and labels, all of one length.
        criterion: name of a criterion that needs no gradient.
        seed: of a criterion that draws random numbers.
        buffer: where the hidden states of the rows are kept.
    """
    measure = CRITERIA[criterion]
    assert isinstance(measure, LayerCriterion), f"{criterion} needs gradients"
    architecture, count = model.architecture, len(model.layers)
    states, calls = first_inputs(model, rows, buffer)
    scores = Importance(
        torch.zeros(count, architecture.attention_sizes.heads),
        torch.zeros(count, architecture.intermediate_size),
        torch.zeros(count),
    )
    with torch.no_grad(), progress("scoring heads and neurons", count) as bar:
        for i, (layer, call) in enumerate(zip(architecture.layers, calls, strict=True)):
            with model.held(i) as module:
                statistics = LayerStatistics(module, layer, seed + i)
                influence = 0.0
                with (
                    observing(statistics, measure.observe),
                    counting_usage(module, layer) as usage,
                ):
                    for row in range(len(states)):
                        before = states[row]
                        after = call(module, before)
                        influence += block_influence(before, after)
                        states[row] = after
                statistics.tokens = len(states) * states.shape[1]
                scores.heads[i] = measure.heads(statistics)
                if layer.dense_ffn:
                    scores.neurons[i] = measure.neurons(statistics)
                scores.layers[i] = influence / statistics.tokens
                scores.experts |= {i: usage} if usage else {}
            bar.advance()
    return scores
