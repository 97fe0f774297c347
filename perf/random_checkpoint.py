"""Writes a checkpoint of a given shape with random weights, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.config import BUILTIN_MODEL, model_path
from ..checkpoints.safetensors_writer import Pending
from ..checkpoints.writer import write_checkpoint

__all__ = ["QWEN2", "QWEN2_1_5B", "write_random"]

QWEN2: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 0,
}
"""Everything in the config.json of a Qwen2.5 but its sizes."""
QWEN2_1_5B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
"""The sizes of its model of 1.5 B parameters."""


def write_random(folder: Path, config: Mapping[str, Any]) -> None:
    """Write weights in bfloat16, in shards if there are many, and the built-in model's tokenizer.

    Args:
        folder: the directory to make.
        config: config.json.
    """
    from accelerate import init_empty_weights  # here, because it is slow to import
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    specs = {
        name: tensor.to(torch.bfloat16)
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight" or not config["tie_word_embeddings"]
    }

    def tensors() -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for name, spec in specs.items():
            made = torch.full(spec.shape, float("norm" in name), dtype=torch.bfloat16)
            if spec.ndim > 1:
                made.normal_(0, spec.shape[1] ** -0.5, generator=generator)
            yield name, made

    tokenizer = Path(model_path(BUILTIN_MODEL))
    write_checkpoint(folder, Pending(specs, tensors()), dict(config), tokenizer, {})
