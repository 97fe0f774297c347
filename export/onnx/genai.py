"""Write `genai_config.json`, with which onnxruntime-genai can generate text from an artifact.

The fields are those that onnxruntime-genai 0.18 reads (its `src/config.h`). It has no windowed
cache, and it cannot stop without an end token. So a windowed artifact, or a model without an end
token, gets no such file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...checkpoints.atomic_files import write_json
from ...checkpoints.config import end_tokens
from ...models import Architecture
from .cut import Cut
from .runtime import ACCURACY_LEVEL, FP32_ACTIVATIONS

__all__ = ["GENAI_CONFIG", "write_genai_config"]

GENAI_CONFIG = "genai_config.json"
KNOWN = (
    "ernie4_5",
    "gemma",
    "gemma2",
    "gemma3_text",
    "granite",
    "llama",
    "mistral",
    "nemotron",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
)
"""Families that onnxruntime-genai has in its `src/models/model_type.h`. For `phi3` it makes the
cache anew when a text grows beyond 4096 tokens, because longrope changes its table there."""
GENERIC = "decoder"
"""Its name for any other decoder; the graph says all the rest."""
MAX_LENGTH = 2048
"""Default for tokens of prompt and answer. Memory for all of them is allocated at the start."""


def write_genai_config(folder: Path, architecture: Architecture, cut: Cut, in_place: bool) -> None:
    """Write `genai_config.json` into an artifact, if onnxruntime-genai can run it.

    Args:
        folder: the artifact, with config.json, and tokenizer and generation_config.json if any.
        architecture: of the model.
        cut: what the graph leaves out.
        in_place: whether past and present may be the same memory.
    """
    ends = end_tokens(folder)
    if cut.window or not ends:
        return
    config = architecture.config
    context = architecture.max_positions or MAX_LENGTH
    pad, begin = config.get("pad_token_id"), config.get("bos_token_id")
    model = {
        "type": architecture.model_type if architecture.model_type in KNOWN else GENERIC,
        "vocab_size": architecture.vocab_size,
        "context_length": context,
        "eos_token_id": ends,
        "pad_token_id": ends[0] if pad is None else pad,
        **({} if begin is None else {"bos_token_id": begin}),
        "decoder": _decoder(architecture),
    }
    search = {
        "do_sample": False,
        "max_length": min(context, MAX_LENGTH),
        "past_present_share_buffer": in_place,
    }
    write_json(folder / GENAI_CONFIG, {"model": model, "search": search})


def _decoder(architecture: Architecture) -> dict[str, Any]:
    """The block `decoder`: session options, sizes, and the names of inputs and outputs."""
    sizes = architecture.attention_sizes
    return {
        # As in `OnnxDecoder`: INT4 products do not round their inputs.
        "session_options": {
            "log_id": "onnxruntime-genai",
            ACCURACY_LEVEL: str(FP32_ACTIVATIONS),
            "provider_options": [],
        },
        "filename": "model.onnx",
        "head_size": sizes.head_dim,
        "hidden_size": architecture.hidden_size,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": len(architecture.layers),
        "num_key_value_heads": sizes.kv_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
