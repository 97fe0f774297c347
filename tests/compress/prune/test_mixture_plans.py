"""Mixtures of experts in plans: sizes, speed, and cuts, from config.json alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import MIXTURES
from known_models import AGX, predicted

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.errors import Refused
from edgewright.models import architecture
from edgewright.models.footprint import read_size, size_of
from edgewright.pipeline.forecast import plan_model
from edgewright.pipeline.plan import plan_recipe
from edgewright.pipeline.recipe import Recipe
from edgewright.steps.context import StepContext
from edgewright.steps.state import State
from edgewright.targets import load_target

MakeModel = Callable[..., Path]
ATTENTION = 2 * 2048 * 128 * (32 + 4)
"""Weights of q, k, v and o in a layer of `A3B`."""
EXPERT = 3 * 2048 * 768
A3B = architecture(
    {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
    }
)


# Sizes and speeds


def test_all_experts_are_stored_and_those_in_use_are_read() -> None:
    rest = (
        2 * 151936 * 2048 + 2048 + 48 * (2 * 2048 + 2 * 128 + 128 * 2048)
    )  # embedding, head, norms and routers
    every, used = (48 * (ATTENTION + n * EXPERT) for n in (128, 8))
    assert State(A3B, "fp16").parameters - State(A3B, "fp16").active_parameters == every - used
    assert size_of(A3B, "fp16") == 2 * (every + rest)
    assert read_size(A3B, "fp16", 128, 2) == 2 * (used + rest - 151936 * 2048)
    assert size_of(A3B, "int4") == every // 2 + 2 * every // 128 + 2 * rest
    two = 48 * (
        ATTENTION + (8 + 8 * 120 / 128) * EXPERT
    )  # the second token's experts, less those that the first one has
    assert read_size(A3B, "fp16", 128, 2, tokens=2) == 2 * (two + rest - 151936 * 2048)
    assert (
        read_size(A3B, "fp16", 128, 2, tokens=100_000) == size_of(A3B, "fp16") - 2 * 151936 * 2048
    )


def test_a_dense_layer_among_the_others_is_counted_as_one() -> None:
    some = A3B.with_config(mlp_only_layers=[0, 5])
    assert size_of(some, "fp16") - size_of(A3B, "fp16") == 2 * 2 * (
        3 * 2048 * 6144 - 128 * EXPERT - 128 * 2048
    )


def test_speed_goes_by_the_mean_of_all_and_of_active_weights() -> None:
    target = load_target(AGX)
    mixture = predicted(target, A3B, precision="int4")
    (note,) = (note for note in mixture.notes if "mixture" in note)
    read, every = (read_size(A3B, "int4", 128, 2, tokens=tokens) for tokens in (1, None))
    assert f"reads {read / 1e9:.2f} GB of {every / 1e9:.2f} GB" in note
    assert f"as long as {math.sqrt(read * every) / 1e9:.2f} GB" in note
    dense = A3B.with_config(model_type="qwen3", tie_word_embeddings=False)

    def of_size(weights):
        size = round((weights / 48 - ATTENTION) / (3 * 2048))
        return dense.with_config(intermediate_size=size)

    slow, fast = (
        predicted(target, of_size(48 * (ATTENTION + n * EXPERT)), precision="int4").decode_tok_s
        or 0.0
        for n in (128, 8)
    )
    assert mixture.decode_tok_s
    assert 1.5 * slow < mixture.decode_tok_s < fast / 1.5
    assert mixture.weight_bytes == size_of(A3B, "int4")


# The one mixture with published measurements on Orin boards: 35B parameters, 3B of them active.
CLOSE = architecture(
    {
        "model_type": "qwen2_moe",
        "hidden_size": 2048,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "vocab_size": 248320,
    }
)


@pytest.mark.parametrize(
    ("engine", "measured"), [("edge-llm", 31.0), ("vllm", 31.4), ("llama.cpp", 22.5)]
)
def test_a_measured_mixture_is_predicted_within_a_third(engine: str, measured: float) -> None:
    """With plain attention of the same size. Active weights alone would predict twice the speed."""
    got = predicted(
        load_target(AGX),
        CLOSE,
        precision="int4",
        context=512,
        prompt=256,
        engine=engine,
        power_mode="MAXN",
    ).decode_tok_s
    assert got == pytest.approx(measured, rel=1 / 3)


# Plans


def recipe(model: Path, *steps: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({"model": str(model), "target": AGX, "steps": steps})


@pytest.mark.parametrize("family", MIXTURES)
def test_a_planned_cut_is_the_cut_that_is_made(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, options = make_model(family), {"experts": 0.25, "heads": 0.5, "layers": 1}
    planned = plan_recipe(recipe(source, {"kind": "prune", **options}))[-1]
    prune(PruneOptions(**options, criterion="magnitude"), source, tmp_path / "out", context)
    config = read_config(tmp_path / "out")
    gap = architecture(config).parameters - planned["parameters"]
    # The plan cannot know which layer is removed, and dense layers have another size.
    assert gap == 0 if family == "mixtral" else abs(gap) < 0.2 * planned["parameters"]
    assert planned["seconds"] > 0
    without = plan_recipe(recipe(source, {"kind": "prune", "experts": 0.25}))[-1]
    prune(PruneOptions(experts=0.25, compensate=False), source, tmp_path / "experts", context)
    config = read_config(tmp_path / "experts")
    assert (
        without["parameters"]
        == architecture(config).parameters
        == load_model(tmp_path / "experts").num_parameters()
    )


def test_a_plan_of_a_mixture_covers_every_board(make_model: MakeModel) -> None:
    rows = plan_model(str(make_model("qwen3_moe")), "all")
    assert {row["precision"] for row in rows} == {"fp16", "int8", "int4"}
    assert all(any("mixture" in note for note in row["notes"]) for row in rows)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"kind": "quantize", "method": "awq"}, "the router reads too"),
        ({"kind": "export"}, "exported"),
        ({"kind": "prune", "ffn": 0.5}, "FFN neurons"),
        ({"kind": "prune", "experts": 0.95}, "a token goes to 2"),
        ({"kind": "prune", "experts": 0.01}, "less than one"),
    ],
)
def test_a_plan_refuses_what_the_step_would(
    step: dict[str, Any], words: str, make_model: MakeModel
) -> None:
    with pytest.raises(Refused, match=words):
        plan_recipe(recipe(make_model("mixtral"), step))


# Steps
