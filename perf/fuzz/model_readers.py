"""The files of a model directory: config.json, headers of safetensors, indexes, tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ...checkpoints.config import (
    BUILTIN_MODEL,
    end_tokens,
    model_path,
    read_architecture,
    read_config,
)
from ...checkpoints.hashing import read_provenance
from ...checkpoints.packing import scheme_of
from ...checkpoints.settings import load_settings
from ...checkpoints.tensors import stored_tensors, tensors_of
from ...checkpoints.tokenizer import load_tokenizer
from ...data.packing import Example, encode, render_prompt
from ...pipeline.forecast import plan_model
from .changes import changed_bytes, changed_json, changed_text

__all__ = ["model_readers"]

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "eos_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
CONFIGS: list[Any] = [
    {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_parameters": LLAMA3, **SIZES},
    {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1, **SIZES, **WINDOWS},
    {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, **SIZES, **WINDOWS},
    {
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        **SIZES,
    },
    {"model_type": "smollm3", "no_rope_layers": [1, 0], "no_rope_layer_interval": 4, **SIZES},
    {"model_type": "exaone4", "sliding_window_pattern": "LG", **SIZES},
    {"model_type": "granite", "logits_scaling": 8.0, "embedding_multiplier": 12.0, **SIZES},
    {
        "model_type": "gemma3",
        "text_config": {"model_type": "gemma3_text", "rope_parameters": LLAMA3, **SIZES},
        "vision_config": {},
    },
]
GROUP = {"weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}}
BLOCKS: list[Any] = [
    {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": 32,
        "sym": True,
        "dynamic": {"-:^lm_head": {}, "+:.*q_proj": {"bits": 8}},
    },
    {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
    {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": GROUP},
        "ignore": ["lm_head"],
    },
    {"quant_method": "modelopt", "quant_algo": "W8A8_SQ_PER_CHANNEL"},
]
PATTERN = {"quant_method": "gptq", "bits": 4, "dynamic": {r"(\w|\.)*(\w|\.)*x": {}, "(": {}}}
HEADER = {
    "__metadata__": {"format": "pt"},
    "model.embed_tokens.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]},
    "model.norm.weight": {"dtype": "BF16", "shape": [4], "data_offsets": [64, 72]},
}
INDEX = {
    "metadata": {"total_size": 72},
    "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"},
}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def _as_json(values: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return values.map(json.dumps).map(str.encode)


def _safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(range(64)) + bytes(8)


def _plan(folder: Path) -> None:
    read_architecture(folder).summary()
    end_tokens(folder)
    plan_model(str(folder), "jetson-orin-nano-8gb")


def _settings(folder: Path) -> None:
    read_architecture(folder)
    load_settings(folder)


def _scheme(folder: Path) -> None:
    block = read_config(folder)["quantization_config"]
    for name in ("model.layers.0.self_attn.q_proj", "lm_head"):
        scheme_of(block, name)


def _tensors(folder: Path) -> None:
    stored_tensors(folder)
    for _ in tensors_of(folder):
        pass


def _tokenizer(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    render_prompt(tokenizer, "what is 2+2?")
    encode(tokenizer, Example("an answer", "a question"))
    tokenizer.decode([1, 2, 3])


def _tokenizers(own: Path) -> st.SearchStrategy[dict[str, bytes]]:
    """The built-in tokenizer with one of its files changed."""
    vocabulary = (own / "tokenizer.json").read_bytes()
    full: Any = json.loads(vocabulary)
    settings: Any = json.loads((own / "tokenizer_config.json").read_bytes())
    files = {"config.json": json.dumps(CONFIGS[0]).encode(), "tokenizer.json": vocabulary}
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    generation = [{"eos_token_id": [0, 1], "temperature": 0.5}]
    changes = st.one_of(
        _as_json(changed_json([full])).map(lambda c: {"tokenizer.json": c}),
        changed_bytes(vocabulary).map(lambda c: {"tokenizer.json": c}),
        changed_text([settings]).map(lambda c: {"tokenizer_config.json": c}),
        changed_text(generation).map(lambda c: {"generation_config.json": c}),
        changed_text([{"eos_token": "<eos>"}]).map(lambda c: {"special_tokens_map.json": c}),
        changed_bytes(TEMPLATE.encode()).map(lambda c: {"chat_template.jinja": c}),
    )
    return changes.map(lambda changed: files | changed)


def model_readers(work: Path) -> list[tuple[Any, ...]]:
    """The arguments of `FileReader` for each kind."""
    own = Path(model_path(BUILTIN_MODEL))
    config = json.dumps(CONFIGS[0]).encode()
    configs = changed_text(CONFIGS).map(lambda c: {"config.json": c})
    blocks = _as_json(changed_json([*BLOCKS, PATTERN])).map(
        lambda c: {"config.json": config[:-1] + b', "quantization_config": ' + c + b"}"}
    )
    headers = st.one_of(
        changed_text([HEADER]).map(_safetensors),
        changed_bytes(_safetensors(json.dumps(HEADER).encode())),
    ).map(lambda c: {"config.json": config, "model.safetensors": c})
    shard = _safetensors(json.dumps(HEADER).encode())
    indexes = changed_text([INDEX]).map(
        lambda c: {
            "config.json": config,
            "model-1.safetensors": shard,
            "model.safetensors.index.json": c,
        }
    )
    records = changed_text([{"edgewright": "1", "step": "x"}]).map(lambda c: {"edgewright.json": c})
    return [
        ("config.json, plan", configs, _plan, 20),
        ("config.json, transformers", configs, _settings, 5),
        ("quantization blocks", blocks, _scheme, 10),
        ("safetensors headers", headers, _tensors, 12),
        ("indexes", indexes, stored_tensors, 8),
        ("tokenizers", _tokenizers(own), _tokenizer, 10),
        ("provenance", records, read_provenance, 3),
    ]
