"""Rotary positions as architectures read them, against transformers' own configurations."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.errors import Refused
from edgewright.models import PositionScale, Rotary, architecture

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "pad_token_id": 0,
    "max_position_embeddings": 8192,
}
LONG = {"short_factor": [1.5] * 24, "long_factor": [4.0] * 24}
YARN = {"factor": 8.0, "original_max_position_embeddings": 1024}


def rotary(family: str, layer: int = 0, **config: Any) -> Rotary:
    found = architecture({"model_type": family, **SIZES, **config}).layers[layer].attention.rotary
    assert found
    return found


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"rope_theta": 2e4}),
        ("llama", {"rope_theta": 2e4, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 2e4, **YARN}}),
        ("qwen3", {"head_dim": 64, "rope_theta": 1e6, "rope_scaling": {"type": "yarn", **YARN}}),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "mscale": 0.8, "mscale_all_dim": 0.5, **YARN}},
        ),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "attention_factor": 1.25, **YARN}}),
        ("glm4", {"head_dim": 64}),
        ("glm4", {"head_dim": 64, "partial_rotary_factor": 0.25}),
        ("stablelm", {}),
        ("nemotron", {"head_dim": 64}),
        ("phi3", {"original_max_position_embeddings": 1024, "partial_rotary_factor": 0.5}),
        (
            "phi3",
            {
                "original_max_position_embeddings": 1024,
                "partial_rotary_factor": 0.75,
                "rope_scaling": {"type": "yarn", **LONG},
            },
        ),
        (
            "phi3",
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 3e4,
                    "partial_rotary_factor": 0.75,
                    **LONG,
                }
            },
        ),
        ("smollm3", {}),
        ("helium", {"head_dim": 64}),
        ("ministral3", {"head_dim": 64}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain",
)
def test_both_spellings_say_what_transformers_reads(family: str, config: dict[str, Any]) -> None:
    found = rotary(family, **config)
    settings = AutoConfig.for_model(family, **SIZES, **config)
    stock: Any = type(AutoModelForCausalLM.from_config(settings).get_submodule("model.rotary_emb"))
    module = stock(settings)
    block = settings.rope_parameters
    assert found.dim == 2 * module.inv_freq.numel()
    assert found.base == block["rope_theta"]
    assert found.form == block["rope_type"]
    assert found.attention_factor == pytest.approx(module.attention_scaling)
    if found.form in ("yarn", "longrope"):
        assert found.pretrained_positions == block["original_max_position_embeddings"]
    # The config that transformers writes means the same.
    written = architecture(settings.to_dict()).layers[0].attention.rotary
    assert written
    assert (written.dim, written.form, written.base) == (found.dim, found.form, found.base)
    assert written.attention_factor == pytest.approx(found.attention_factor)


def test_layer_types_have_tables_of_their_own() -> None:
    """transformers 4 scales the layers that see everything, and only these."""
    types = ["sliding_attention", "full_attention"]
    linear = {"rope_type": "linear", "factor": 8.0}
    old = {"rope_theta": 1e6, "rope_local_base_freq": 2e4, "rope_scaling": linear}
    new = {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            "full_attention": {**linear, "rope_theta": 1e6},
        }
    }
    for config in (old, new):
        local, whole = (
            rotary("gemma3_text", layer, layer_types=types, **config) for layer in (0, 1)
        )
        assert (local.form, local.base, local.layer_type) == ("default", 2e4, types[0])
        assert (whole.form, whole.base, whole.factor) == ("linear", 1e6, 8.0)


def test_layers_without_positions() -> None:
    layers = architecture(
        {"model_type": "smollm3", **SIZES, "num_hidden_layers": 4, "rope_theta": 5e6}
    ).layers
    assert [layer.attention.rotary is None for layer in layers] == [False, False, False, True]


def test_pairs_of_channels() -> None:
    assert Rotary(8).pairs == (slice(0, 4), slice(4, 8))
    assert Rotary(8, interleaved=True).pairs == (slice(0, 8, 2), slice(1, 8, 2))
    assert rotary("glm4", head_dim=64).interleaved
    assert not rotary("llama").interleaved


def test_a_fixed_alpha_depends_on_no_length() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0}
    assert rotary("llama", rope_parameters=dynamic).form == "dynamic"
    alpha = {**dynamic, "alpha": 1000.0}
    assert rotary("hunyuan_v1_dense", rope_parameters=alpha).form == "ntk_alpha"


def test_a_part_of_a_head_is_refused_where_transformers_rotates_all() -> None:
    partial = {"partial_rotary_factor": 0.5, "rope_theta": 1e4}
    assert rotary("llama", rope_parameters=partial).dim == 64  # transformers ignores it
    with pytest.raises(Refused, match="rotate whole heads"):
        rotary("llama", rope_parameters={**partial, "rope_type": "linear", "factor": 2.0})


def test_queries_of_ministral3_grow_with_their_position() -> None:
    layer = architecture({"model_type": "ministral3", **SIZES}).layers[0]
    assert layer.attention.position_scale == PositionScale(0.1, 16384)
    assert architecture({"model_type": "llama", **SIZES}).layers[0].attention.position_scale is None
