"""Boards and models that several tests use, with the sizes of their published config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

JETSONS = [
    "jetson-agx-orin-32gb",
    "jetson-agx-orin-64gb",
    "jetson-orin-nano-4gb",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-orin-nx-8gb",
]
NANO, NX, AGX = "jetson-orin-nano-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb"


def model(kind: str, *sizes: int, tied: bool = True, **more: Any) -> dict[str, Any]:
    """A config.json: width, layers, heads, key/value heads, head_dim, FFN width, vocabulary."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
    )
    return {
        "model_type": kind,
        **dict(zip(names, sizes, strict=True)),
        "tie_word_embeddings": tied,
        **more,
    }


QWEN25_3B = model("qwen2", 2048, 36, 16, 2, 128, 11008, 151936)
QWEN3 = {
    "0.6B": model("qwen3", 1024, 28, 16, 8, 128, 3072, 151936),
    "1.7B": model("qwen3", 2048, 28, 16, 8, 128, 6144, 151936),
    "4B": model("qwen3", 2560, 36, 32, 8, 128, 9728, 151936),
    "8B": model("qwen3", 4096, 36, 32, 8, 128, 12288, 151936, tied=False),
}
LLAMA_3B = model("llama", 3072, 28, 24, 8, 128, 8192, 128256)
SMALL = model("llama", 512, 4, 8, 2, 64, 1536, 32000)
GEMMA = model("gemma3_text", 640, 18, 4, 1, 256, 2048, 262144, sliding_window=512)


def changed(config: Mapping[str, Any], **sizes: Any) -> dict[str, Any]:
    """A copy of a config with some keys changed."""
    return {**config, **sizes}
