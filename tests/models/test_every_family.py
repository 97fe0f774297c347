"""What every family says of its models, against transformers' own classes; no weights are made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import BASE
from family_table import PUBLISHED, SETTINGS
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.checkpoints.writer import config_for_everyone
from edgewright.models import FAMILIES, HEADS, Architecture, Layer, architecture, expressible

ALL = sorted(SETTINGS)
EVERYWHERE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)


def tiny(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family, **BASE, **SETTINGS[family], **changes}


def stock_parameters(config: dict[str, Any]) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    return model.num_parameters()


def described(model: Architecture) -> list[Layer]:
    """The layers, without the numbers of rotary forms that spellings order differently."""
    found: list[Layer] = []
    for layer in model.layers:
        attention = layer.attention
        rotary = replace(attention.rotary, settings={}) if attention.rotary else None
        found.append(replace(layer, mixer=replace(attention, rotary=rotary)))
    return found


def test_every_family_is_tested() -> None:
    assert set(SETTINGS) == set(PUBLISHED)
    assert set(SETTINGS) <= set(FAMILIES)


@pytest.mark.parametrize("family", ALL)
def test_parameters_of_the_published_config_are_those_of_transformers(family: str) -> None:
    config = PUBLISHED[family]
    assert architecture(config).parameters == stock_parameters(config)


@pytest.mark.parametrize("family", ALL)
def test_what_config_leaves_out_is_as_in_transformers(family: str) -> None:
    """Of the published config, and of one with nothing but the sizes that every file has."""
    config = {"max_position_embeddings": 4096, **PUBLISHED[family]}
    bare = {name: config[name] for name in EVERYWHERE if name not in FAMILIES[family].defaults}
    for given in (config, bare):
        full = AutoConfig.for_model(**given).to_dict()
        ours, stock = architecture(given), architecture(full)
        assert described(ours) == described(stock)
        assert ours.final_norm == stock.final_norm
        for name in ("tied", "embedding_scale", "logit_scale", "logit_softcap", "vocab_size"):
            assert getattr(ours, name) == getattr(stock, name), name


@pytest.mark.parametrize("family", ALL)
def test_both_spellings_of_rope(family: str) -> None:
    new = AutoConfig.for_model(**tiny(family)).to_dict()
    old = config_for_everyone(new)
    del old["rope_parameters"]
    assert described(architecture(old)) == described(architecture(new))


@pytest.mark.parametrize("family", ALL)
def test_a_cut_config_is_that_of_a_smaller_model(family: str) -> None:
    model = architecture(tiny(family))
    sizes = model.attention_sizes
    free = not expressible(model, HEADS) and sizes.kv_heads == 2
    heads, kv_heads = (sizes.group, 1) if free else (sizes.heads, sizes.kv_heads)
    small = model.resized(heads=heads, kv_heads=kv_heads, ffn=128, layers=[0, 2])
    assert small.attention_sizes.heads == heads
    stock = AutoConfig.for_model(**small.config)
    assert stock_parameters(dict(small.config)) == small.parameters < model.parameters
    assert described(architecture(stock.to_dict())) == described(small)
    for new, old in zip(small.layers, (model.layers[0], model.layers[2]), strict=True):
        assert new.attention.window == old.attention.window
        assert bool(new.attention.rotary) == bool(old.attention.rotary)
