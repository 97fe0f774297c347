"""Folding factors into the operation before a layer changes no output; norms stay exact on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import DENSE

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.fold import apply_fold, channels_of, divided_norm, per_channel
from edgewright.models import Fold, architecture, decoder_layers, weight_of

MakeModel = Callable[..., Path]
HEADS = {"multi-head": (4, 4), "grouped": (8, 2), "multi-query": (4, 1)}


def factors_for(fold: Fold, layer: torch.nn.Module, seed: int) -> torch.Tensor:
    """Factors between 1/4 and 4, different for every channel."""
    weight = weight_of(layer.get_submodule(fold.writer))
    return (
        torch.rand(len(weight), generator=torch.Generator().manual_seed(seed))
        .mul(2.77)
        .sub(1.386)
        .exp()
    )


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("family_name", DENSE)
def test_the_model_stays_what_it_was(family_name: str, heads: str, make_model: MakeModel) -> None:
    query, kv = HEADS[heads]
    biases = (
        {"attention_bias": True, "mlp_bias": True}
        if family_name == "llama"
        else {"attention_bias": True}
        if family_name == "qwen3"
        else {}
    )
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]}
        if family_name == "gemma3_text"
        else {}
    )
    sizes = {
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "num_attention_heads": query,
        "num_key_value_heads": kv,
    }
    path = make_model(family_name, **sizes | layers | biases)
    config = read_config(path)
    described = architecture(config)
    model = load_model(path).double()
    ids = torch.arange(7, 39).unsqueeze(0)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        changed = 0
        for layer, parts in zip(decoder_layers(model, described), described.layers, strict=True):
            for seed, fold in enumerate(parts.folds):
                weight = weight_of(layer.get_submodule(fold.readers[0])).clone()
                apply_fold(layer, fold, factors_for(fold, layer, seed).double(), torch.float64)
                changed += not torch.equal(weight, weight_of(layer.get_submodule(fold.readers[0])))
        after = model(input_ids=ids).logits
    assert changed == 8
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()


def test_values_serve_every_query_head_of_their_group() -> None:
    fold = Fold(("o",), "v", norm=False, repeat=2, head_dim=3)
    assert channels_of(fold, 12).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]
    values = torch.arange(12.0)
    expected = torch.zeros(6).index_add_(0, channels_of(fold, 12), values) / 2
    assert torch.equal(per_channel(values, fold), expected)
    assert channels_of(Fold(("down",), "up", norm=False), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_norm_is_exact_as_it_will_be_stored(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, generator=generator).to(dtype).float() + 1 - offset
    weight = weight.to(dtype).float()
    asked = torch.rand(256, generator=generator).mul(6).sub(3).exp()
    divided, factors = divided_norm(weight, asked, offset, dtype)
    assert torch.equal(divided.to(dtype).float(), divided)
    torch.testing.assert_close((divided + offset) * factors, weight + offset, rtol=1e-6, atol=0)
    assert bool((factors > 0).all())
    if dtype == torch.float32:
        torch.testing.assert_close(factors, asked, rtol=1e-3, atol=0)


def test_a_norm_that_would_fall_silent_is_left_alone() -> None:
    """Gemma stores weight - 1: 1 / 1000 would round to -1 in bfloat16, that is, to zero."""
    divided, factors = divided_norm(
        torch.tensor([0.0, 0.5]), torch.tensor([1e4, 2.0]), 1.0, torch.bfloat16
    )
    assert divided[0] == 0.0
    assert factors[0] == 1.0
    assert float((divided[1] + 1) * factors[1]) == pytest.approx(1.5)


def test_a_silent_channel_stays_silent() -> None:
    divided, factors = divided_norm(
        torch.tensor([0.0, 2.0]), torch.tensor([3.0, 2.0]), 0.0, torch.float32
    )
    assert divided.tolist() == [0.0, 1.0]
    assert torch.isfinite(factors).all()
