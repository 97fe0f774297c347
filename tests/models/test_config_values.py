"""A config.json is checked at the door: types, bounds, finite numbers, no contradictions."""

from __future__ import annotations

import time
from typing import Any

import pytest

from edgewright.errors import UsageError
from edgewright.models import architecture, text_config

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
}
NAN, INFINITY = float("nan"), float("inf")
HUGE = 10**9
WRONG: list[tuple[dict[str, Any], str]] = [
    *[
        ({key: HUGE}, f"{key} must be at most")
        for key in (*SIZES, "head_dim", "max_window_layers", "num_experts")
    ],
    ({"max_position_embeddings": 2**40}, "max_position_embeddings must be at most"),
    ({"num_hidden_layers": 900, "num_experts": 900}, "900 layers with 900 experts each"),
    ({"num_key_value_heads": 0}, "num_key_value_heads must be at least 1"),
    ({"head_dim": 0}, "head_dim must be at least 1"),
    ({"hidden_size": -INFINITY}, "`hidden_size` is not a finite number"),
    ({"rms_norm_eps": NAN}, "`rms_norm_eps` is not a finite number"),
    ({"anything": [0, {"b": NAN}]}, r"`anything\.1\.b` is not a finite number"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps must be at least 0"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps is missing or not a number"),
    ({"mlp_bias": 5}, "mlp_bias is wrong"),
    ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is wrong"),
    ({"hidden_size": True}, "hidden_size is missing or not a number"),
    ({"hidden_size": 64.5}, "hidden_size is"),
    ({"layer_types": ["full_attention"]}, "layer_types has 1 entries, and there are 2 layers"),
    ({"layer_types": 5}, "layer_types is wrong"),
    ({"rope_theta": 0}, "rope_theta must be more than 0"),
    ({"rope_parameters": 5}, "rope_parameters is wrong"),
    ({"rope_parameters": {"factor": -1.0}}, r"rope_parameters\.factor must be more than 0"),
    ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope_scaling\.rope_type is wrong"),
    ({"hidden_act": 5}, "hidden_act is wrong"),
    ({"eos_token_id": "x"}, "eos_token_id"),
    ({"attn_implementation": "somebody/kernel"}, "attn_implementation is wrong"),
    ({"experts_implementation": "hub:somebody/kernel"}, "experts_implementation is wrong"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=lambda value: str(value)[:50])
def test_a_wrong_value_is_named(change: dict[str, Any], words: str) -> None:
    begin = time.process_time()
    with pytest.raises(UsageError, match=words) as caught:
        architecture({"model_type": "llama", **SIZES, **change}, "m/config.json")
    assert str(caught.value).startswith("m/config.json: ")
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("kind", ["gemma3", "qwen2_5_vl", "qwen3_vl", "mistral3"])
@pytest.mark.parametrize("inner", [5, [], "x", {"model_type": ["x"]}])
def test_the_block_of_a_wrapper(kind: str, inner: Any) -> None:
    with pytest.raises((UsageError, Exception), match=r"text_config|text model") as caught:
        text_config({"model_type": kind, "text_config": inner})
    assert caught.value.exit_code in (2, 3)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (5, "`quantization_config` is not an object"),
        ([], "`quantization_config` is not an object"),
        ({"bits": "4"}, "bits is missing or not a number"),
        ({"bits": 10**30}, "bits"),
        ({"group_size": 0.5}, "group_size"),
        ({"sym": "yes"}, "sym is wrong"),
        ({"dynamic": []}, "dynamic is wrong"),
        ({"dynamic": {"x": 5}}, r"dynamic\.x is wrong"),
        ({"ignore": "lm_head"}, "ignore is wrong"),
        ({"config_groups": {"g": {"weights": 5}}}, r"config_groups\.g\.weights is wrong"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_quantization_block(block: Any, words: str, wrapped: bool) -> None:
    config: dict[str, Any] = {"model_type": "llama", "quantization_config": block}
    if wrapped:
        config |= {"model_type": "gemma3", "text_config": SIZES}
    with pytest.raises(UsageError, match=words):
        text_config(config)


@pytest.mark.parametrize("rope", [5, "x", ["rope_theta"]])
def test_the_rope_block_in_a_wrapper(rope: Any) -> None:
    inner = {**SIZES, "rope_parameters": rope}
    with pytest.raises(UsageError, match="rope_parameters is wrong"):
        architecture(text_config({"model_type": "gemma3", "text_config": inner}))


@pytest.mark.parametrize("kind", [5, ["llama"], {"a": 1}])
def test_a_model_type_that_is_no_word(kind: Any) -> None:
    with pytest.raises(Exception, match="is not supported") as caught:
        architecture({"model_type": kind, **SIZES})
    assert caught.value.exit_code == 3  # pyright: ignore[reportAttributeAccessIssue]


def test_null_is_the_same_as_a_missing_key() -> None:
    nothing = dict.fromkeys(("rope_scaling", "sliding_window", "head_dim", "rope_theta", "dtype"))
    assert architecture({"model_type": "llama", **SIZES, **nothing}).hidden_size == 64
