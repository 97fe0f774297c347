"""Tiny models of every family with random weights, for the tests of ONNX exports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from edgewright.checkpoints.layouts import PackedLinear, Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.writer import config_for_everyone
from edgewright.models import architecture

SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
MILLION = {"rope_type": "default", "rope_theta": 1e6}
CONFIGS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "llama": (LlamaConfig, {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "mistral": (MistralConfig, {"sliding_window": 7, "rope_parameters": MILLION}),
    "qwen2": (
        Qwen2Config,
        {"num_attention_heads": 6, "tie_word_embeddings": True, "rope_parameters": YARN},
    ),
    "qwen3": (
        Qwen3Config,
        {
            "use_sliding_window": True,
            "sliding_window": 5,
            "max_window_layers": 1,
            "rope_parameters": MILLION,
        },
    ),
    "gemma3_text": (
        Gemma3TextConfig,
        {
            "num_key_value_heads": 1,
            "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 48,
        },
    ),
}


def random_model(path: Path, name: str, **changes: Any) -> Path:
    """A checkpoint of a tiny model in which every tensor matters, biases and norms too."""
    torch.manual_seed(0)
    kind, settings = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(kind(**SIZES | settings | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * parameter.shape[1] ** -0.5)
    model.save_pretrained(path)
    (path / "config.json").write_text(
        json.dumps(config_for_everyone(json.loads((path / "config.json").read_text())))
    )
    (path / "tokenizer_config.json").write_text("{}")
    return path


def round_to_nearest(weight: torch.Tensor, group: int) -> PackedLinear:
    """Symmetric 4-bit integers of a weight, without any search."""
    grouped = weight.float().view(len(weight), -1, group)
    scales = (grouped.abs().amax(-1) / 7.5).half().float()
    integers = (grouped / scales.unsqueeze(-1)).round().clamp(-8, 7) + 8
    return PackedLinear(
        integers.to(torch.uint8).view_as(weight),
        scales,
        torch.full(scales.shape, 8, dtype=torch.uint8),
        4,
        group,
    )


def gptq_model(path: Path, dense: Path, group: int = 128, **changes: Any) -> Path:
    """A GPTQ checkpoint of a dense one, rounded to nearest; `changes`: to quantization_config."""
    config = json.loads((dense / "config.json").read_text())
    state = load_file(dense / "model.safetensors")
    for name in architecture(config).linears():
        packed = round_to_nearest(state.pop(f"{name}.weight"), group)
        state |= {f"{name}.{part}": tensor for part, tensor in Gptq().write(packed).items()}
    path.mkdir()
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config["quantization_config"] = Gptq().config(Scheme(4, group), 0.01) | changes
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: with several, products this small are slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torch_logits(checkpoint: Path, tokens: np.ndarray, mask: np.ndarray) -> np.ndarray:
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    with torch.inference_mode():
        arrays = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        return load_model(checkpoint)(
            **{k: torch.from_numpy(v) for k, v in arrays.items()}
        ).logits.numpy()
