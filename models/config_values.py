"""What the values of a config.json may be: their types, their bounds, and that none is NaN.

Only keys that edgewright reads are described. The bounds are far above every published model, and
low enough that a wrong config.json costs no time and no memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UsageError

__all__ = ["RESTORE", "check_block_values", "check_values"]

RESTORE = "restore the config.json of the model"
MOST_EXPERTS = 100_000
"""The most experts in all layers together; the largest published models have 24,000."""

Layers = Annotated[int, Field(ge=1, le=1000)]
Heads = Annotated[int, Field(ge=1, le=2**14)]
Width = Annotated[int, Field(ge=1, le=2**18)]
Rows = Annotated[int, Field(ge=1, le=2**24)]
"""Neurons, or tokens of a vocabulary."""
Optional = Annotated[int, Field(ge=0, le=2**24)]
"""A size of which 0 says that there is nothing of the kind."""
Positions = Annotated[int, Field(ge=1, le=2**31)]
Token = Annotated[int, Field(ge=-1, le=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bits = Annotated[int, Field(ge=1, le=64)]
GroupSize = Annotated[int, Field(ge=-1, le=2**24)]
Word = Annotated[str, Field(max_length=100)]
Plain = Annotated[str, Field(pattern=r"^[\w|-]*$", max_length=100)]
"""A word without a slash: with one, transformers would load code of that name from the hub."""


class _Values(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


class _Rope(_Values):
    """A block of rotary positions. One for each type of layer may be in it."""

    rope_type: Word | None = None
    type: Word | None = None
    rope_theta: Positive | None = None
    factor: Positive | None = None
    alpha: Positive | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    original_max_position_embeddings: Annotated[float, Field(ge=1, le=2**31)] | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: Number | None = None
    mscale_all_dim: Number | None = None
    llama_4_scaling_beta: Number | None = None
    long_factor: list[Positive] | None = None
    short_factor: list[Positive] | None = None
    full_attention: _Rope | None = None
    sliding_attention: _Rope | None = None


class _Group(_Values):
    """A group of layers that compressed-tensors packs alike."""

    weights: dict[str, Any] | None = None
    input_activations: dict[str, Any] | None = None
    output_activations: dict[str, Any] | None = None


class _Block(_Values):
    """A quantization block."""

    quant_method: Word | None = None
    quant_algo: Word | None = None
    bits: Bits | None = None
    w_bit: Bits | None = None
    group_size: GroupSize | None = None
    q_group_size: GroupSize | None = None
    sym: bool | None = None
    zero_point: bool | None = None
    dynamic: dict[str, dict[str, Any]] | None = None
    config_groups: dict[str, _Group] | None = None
    sparsity_config: dict[str, Any] | None = None
    modules_to_not_convert: list[str] | None = None
    ignore: list[str] | None = None
    exclude_modules: list[str] | None = None


class _Config(_Values):
    """A config.json; null is the same as a missing key."""

    num_hidden_layers: Layers | None = None
    hidden_size: Width | None = None
    num_attention_heads: Heads | None = None
    num_key_value_heads: Heads | None = None
    head_dim: Heads | None = None
    intermediate_size: Rows | None = None
    vocab_size: Rows | None = None
    max_position_embeddings: Positions | None = None

    num_experts: Optional | None = None
    num_local_experts: Optional | None = None
    num_experts_per_tok: Optional | None = None
    moe_intermediate_size: Optional | None = None
    shared_expert_intermediate_size: Optional | None = None
    decoder_sparse_step: Optional | None = None
    mlp_only_layers: list[int] | None = None
    norm_topk_prob: bool | None = None

    sliding_window: Annotated[int, Field(ge=0, le=2**31)] | None = None
    use_sliding_window: bool | None = None
    max_window_layers: Optional | None = None
    sliding_window_pattern: Optional | Word | None = None
    layer_types: list[Word] | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Annotated[int, Field(ge=1, le=2**24)] | None = None

    rms_norm_eps: Epsilon | None = None
    layer_norm_eps: Epsilon | None = None
    norm_eps: Epsilon | None = None
    hidden_act: Word | None = None
    hidden_activation: Word | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    use_bias: bool | None = None
    use_qkv_bias: bool | None = None
    qkv_bias: bool | None = None
    qk_layernorm: bool | None = None
    use_parallel_residual: bool | None = None
    use_bidirectional_attention: bool | None = None
    tie_word_embeddings: bool | None = None

    rope_theta: Positive | None = None
    rope_local_base_freq: Positive | None = None
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)] | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    original_max_position_embeddings: Positions | None = None

    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Annotated[float, Field(ge=0)] | None = None
    final_logit_softcapping: Annotated[float, Field(ge=0)] | None = None
    logit_scale: Number | None = None
    logits_scaling: Positive | None = None
    embedding_multiplier: Number | None = None
    attention_multiplier: Number | None = None
    residual_multiplier: Number | None = None

    dtype: Word | None = None
    torch_dtype: Word | None = None
    eos_token_id: Token | list[Token] | None = None
    bos_token_id: Token | list[Token] | None = None
    pad_token_id: Token | list[Token] | None = None
    attn_implementation: Plain | None = None
    experts_implementation: Plain | None = None

    @model_validator(mode="after")
    def _agrees(self) -> _Config:
        layers = self.num_hidden_layers or 0
        experts = max(self.num_experts or 0, self.num_local_experts or 0)
        if layers * experts > MOST_EXPERTS:
            raise ValueError(f"{layers} layers with {experts} experts each are too many")
        listed: Mapping[str, Sequence[Any] | None] = {
            "layer_types": self.layer_types,
            "no_rope_layers": self.no_rope_layers,
        }
        for name, items in listed.items():
            if items and layers and len(items) != layers:
                raise ValueError(f"{name} has {len(items)} entries, and there are {layers} layers")
        return self


def check_values(config: Mapping[str, Any], where: str) -> None:
    """Accept a config.json whose values have the right types, are finite and within bounds.

    Args:
        config: the parsed config.json.
        where: its name in messages.

    Raises:
        UsageError: naming the first values that are wrong.
    """
    if bad := _not_finite(config, ""):
        raise UsageError(f"{where}: {bad} is not a finite number", RESTORE)
    _validate(_Config, config, where)


def check_block_values(block: Any, where: str) -> None:
    """Accept a quantization block whose values have the right types, or the lack of one.

    Raises:
        UsageError: as `check_values`.
    """
    if block is None:
        return
    if not isinstance(block, Mapping):
        raise UsageError(f"{where}: `quantization_config` is not an object", RESTORE)
    _validate(_Block, cast(Mapping[str, Any], block), f"{where}: quantization_config")


def _validate(kind: type[_Values], values: Mapping[str, Any], where: str) -> None:
    try:
        kind.model_validate(dict(values))
    except ValidationError as error:
        faults: dict[str, list[str]] = {}
        for one in error.errors(include_url=False):
            faults.setdefault(_reason(one), []).append(_place(one["loc"]))
        said = [f"{', '.join(dict.fromkeys(keys))} {why}".strip() for why, keys in faults.items()]
        raise UsageError(f"{where}: {'; '.join(said[:3])}", RESTORE) from error


def _reason(error: Any) -> str:
    """What is wrong with a value, to be read behind its key."""
    if error["type"] in ("int_type", "float_type"):
        return f"is missing or not a number: {str(error['input'])[:40]}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    limits = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    context = error.get("ctx", {})
    found = [f"must be {words} {context[key]}" for key, words in limits.items() if key in context]
    return found[0] if found else f"is wrong: {error['msg']}"


def _place(location: Sequence[int | str]) -> str:
    """The key of a value, without pydantic's names for the alternatives of its type."""
    return ".".join(str(part) for part in location if "[" not in str(part))


def _not_finite(value: Any, place: str) -> str:
    """The place of the first number that is NaN or infinite; empty: there is none."""
    if isinstance(value, float):
        return "" if isfinite(value) else f"`{place}`"
    children: Iterable[tuple[object, Any]] = ()
    if isinstance(value, Mapping):
        children = cast(Mapping[str, Any], value).items()
    elif isinstance(value, list):
        children = enumerate(cast(list[Any], value))
    inner = (_not_finite(v, f"{place}.{k}" if place else str(k)) for k, v in children)
    return next(filter(None, inner), "")
