"""Scores of heads, neurons and layers: against definitions, and planted parts that do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from prune_helpers import IDS
from safetensors.torch import save_file
from torch import nn

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.criteria import CRITERIA
from edgewright.compress.prune.cut import KeptParts
from edgewright.compress.prune.importance import Importance
from edgewright.compress.prune.masking import masked
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.scoring import score_model
from edgewright.compress.prune.selection import choose_heads
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_best_of_every_group_stay(
    criterion: Any, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    result = prune(
        PruneOptions(heads=0.5, criterion=criterion), make_model("qwen2"), tmp_path / "out", context
    )
    for scores, gone in zip(
        result.details["head_importance"], result.details["pruned_heads"], strict=True
    ):
        assert len(set(scores)) == 8
        for first in (0, 4):
            group = sorted(range(first, first + 4), key=lambda h: scores[h])
            assert set(group[:2]) == set(gone) & set(range(first, first + 4))
    provenance = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert provenance["removed_heads"] == result.details["pruned_heads"]
    assert provenance["options"]["criterion"] == criterion


def planted(source: Path) -> Path:
    """A model in which head 5 of layer 1 and neuron 300 of layer 2 have no effect."""
    state = read_state(source)
    state["model.layers.1.self_attn.o_proj.weight"][:, 5 * 64 : 6 * 64] = 0
    state["model.layers.2.mlp.down_proj.weight"][:, 300] = 0
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    return source


def scores_of(folder: Path, context: StepContext, criterion: Any, seed: int = 0) -> Importance:
    return score_model(
        load_model(folder),
        architecture(read_config(folder)),
        context.calibration.rows(folder, 0),
        criterion,
        seed,
    )


@pytest.mark.parametrize("criterion", ["taylor", "activation", "magnitude"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_finds_what_reaches_nothing(
    criterion: str, family: str, copy_model: MakeModel, context: StepContext
) -> None:
    scores = scores_of(planted(copy_model(family)), context, criterion)
    assert scores.heads[1, 5] == 0 == scores.neurons[2, 300]
    assert (scores.heads > 0).sum() == scores.heads.numel() - 1
    assert (scores.neurons > 0).sum() == scores.neurons.numel() - 1
    assert all(
        5 not in kept[1] for kept in [choose_heads(scores.heads, 2, keep, 2) for keep in (2, 4, 6)]
    )


def test_random_does_not_know(copy_model: MakeModel, context: StepContext) -> None:
    folder = planted(copy_model("llama"))
    kept = [
        5 in choose_heads(scores_of(folder, context, "random", seed).heads, 2, 6, 2)[1]
        for seed in range(4)
    ]
    assert any(kept)
    first, again, other = (scores_of(folder, context, "random", seed).heads for seed in (0, 0, 9))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_taylor_is_the_change_of_the_loss(make_model: MakeModel, context: StepContext) -> None:
    """Against the definition: mask a little of a head, and see how much the loss changes."""
    folder = make_model("qwen2")
    config, rows = read_config(folder), context.calibration.rows(folder, 0)[:1]
    model = load_model(folder, dtype=torch.float64)
    scores = score_model(model, architecture(config), rows, "taylor")
    o = model.get_submodule("model.layers.1.self_attn.o_proj")

    def loss(head: int, share: float) -> float:
        weight = o.weight.data.clone()
        o.weight.data[:, head * 64 : head * 64 + 64] *= share
        with torch.no_grad():
            logits = model(input_ids=rows[0][:1], use_cache=False).logits[0, :-1]
        o.weight.data = weight
        return float(nn.functional.cross_entropy(logits, rows[0][0, 1:]))

    slopes = torch.tensor([(loss(head, 1.05) - loss(head, 0.95)) / 0.1 for head in range(8)])
    torch.testing.assert_close(scores.heads[1], slopes.abs(), rtol=0.02, atol=2e-4)


def test_measuring_leaves_no_hooks(make_model: MakeModel, context: StepContext) -> None:
    folder = make_model("llama")
    config, model = read_config(folder), load_model(folder)
    described = architecture(config)
    with torch.no_grad():
        before = model(input_ids=IDS, use_cache=False).logits
        score_model(model, described, context.calibration.rows(folder, 0), "taylor")
        with masked(model, described, KeptParts([[0, 4]] * 3, [[1, 2, 3]] * 3, [0, 2])):
            assert not torch.allclose(
                model(input_ids=IDS, use_cache=False).logits, before, rtol=0.01
            )
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits, before)


def test_layer_influence_is_one_minus_cosine(make_model: MakeModel, context: StepContext) -> None:
    folder = make_model("mistral")
    rows = context.calibration.rows(folder, 0)
    model = load_model(folder)
    with torch.no_grad():
        hidden = [
            model(input_ids=row[:1], output_hidden_states=True, use_cache=False).hidden_states
            for row in rows
        ]
    expected = torch.stack(
        [1 - torch.cosine_similarity(h[0], h[1], dim=-1).mean() for h in hidden]
    ).mean()
    torch.testing.assert_close(
        scores_of(folder, context, "norm").layers[0], expected, rtol=1e-4, atol=0
    )
