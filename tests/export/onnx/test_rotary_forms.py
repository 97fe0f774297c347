"""Every form of rotary positions in both kinds of graph, against stock transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder

one_thread = onnx_models.one_thread

SIZES: dict[str, Any] = {
    "vocab_size": 211,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "bos_token_id": None,
}
PROMPT = 21
STEPS = 8
BEYOND = 9000 + PROMPT + 4
"""A length that a sequence from position 9,000 on reaches in its fourth cached step."""


def rope(form: str, **settings: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": form, "rope_theta": 5e5, **settings}}


LONG = {
    "short_factor": [1.0 + i / 9 for i in range(12)],
    "long_factor": [2.0 + i for i in range(12)],
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "default": ("llama", rope("default")),
    "linear": ("llama", rope("linear", factor=4.0)),
    "llama3": (
        "llama",
        rope(
            "llama3",
            factor=4.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=2048,
        ),
    ),
    "yarn": ("llama", rope("yarn", factor=4.0, original_max_position_embeddings=2048)),
    "dynamic": ("llama", rope("dynamic", factor=2.0)),
    "alpha": ("hunyuan_v1_dense", rope("dynamic", factor=1.0, alpha=1000.0)),
    "longrope": (
        "phi3",
        {
            **rope("longrope", partial_rotary_factor=0.75, **LONG),
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": BEYOND,
        },
    ),
    "partial": ("stablelm", rope("default", partial_rotary_factor=0.25)),
    "interleaved": ("helium", rope("default")),
    "interleaved-partial": ("glm4", rope("default", partial_rotary_factor=0.5)),
    "interleaved-by-window": ("cohere2", {"sliding_window": 9, "sliding_window_pattern": 2}),
    "mistral-by-layer-types": (  # transformers loads it as `ministral`
        "mistral",
        {"sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "some-layers": ("smollm3", {"no_rope_layers": [1, 0]}),
    "query-scale": (
        "ministral3",
        rope("yarn", factor=4.0, original_max_position_embeddings=4096, llama_4_scaling_beta=0.1),
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with one form of positions."""
    family, settings = MODELS[request.param]
    path = tmp_path_factory.mktemp("rotary") / "model"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES | settings))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.1)
            else:
                parameter.copy_(noise * parameter.shape[1] ** -0.5)
    model.save_pretrained(path)
    (path / "tokenizer_config.json").write_text("{}")
    return path


def chunks(start: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Tokens and positions of a prompt and of the cached steps after it."""
    tokens = np.random.default_rng(1).integers(3, 200, (1, PROMPT + STEPS))
    positions = np.arange(PROMPT + STEPS)[None] + start
    ends = [PROMPT, *range(PROMPT + 1, PROMPT + STEPS + 1)]
    return [
        (tokens[:, begin:end], positions[:, begin:end])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]


def stock_logits(source: Path, start: int) -> NDArray[np.float32]:
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    cache = None
    found = []
    with torch.inference_mode():
        for tokens, positions in chunks(start):
            result = model(
                input_ids=torch.from_numpy(tokens),
                position_ids=torch.from_numpy(positions),
                past_key_values=cache,
                use_cache=True,
            )
            cache = result.past_key_values
            found.append(result.logits.numpy())
    return np.concatenate(found, axis=1)


def graph_logits(artifact: Path, start: int) -> NDArray[np.float32]:
    decoder = OnnxDecoder(artifact)
    past = decoder.empty_past(1)
    found = []
    seen = 0
    for tokens, positions in chunks(start):
        seen += tokens.shape[1]
        logits, past = decoder.forward(tokens, np.ones((1, seen), np.int64), positions, past)
        found.append(logits)
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_graphs_compute_what_transformers_does_at_every_position(
    format: str, source: Path, tmp_path: Path
) -> None:
    export_onnx(source, tmp_path / "out", "fp32", format=format)
    for start in (0, 9000, 40000):
        wanted = stock_logits(source, start)
        worst = np.abs(graph_logits(tmp_path / "out", start) - wanted).max() / np.abs(wanted).max()
        assert worst < 1e-4, start
