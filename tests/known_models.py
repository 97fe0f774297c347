"""Boards and models that several tests use, with the sizes of their published config.json."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from edgewright.models import Architecture, architecture
from edgewright.targets import (
    ArtifactSpec,
    Prediction,
    Target,
    Violation,
    Workload,
    check,
    predict,
)

JETSONS = [
    "jetson-agx-orin-32gb",
    "jetson-agx-orin-64gb",
    "jetson-orin-nano-4gb",
    "jetson-orin-nano-8gb",
    "jetson-orin-nx-16gb",
    "jetson-orin-nx-8gb",
]
NANO, NX, AGX = "jetson-orin-nano-8gb", "jetson-orin-nx-16gb", "jetson-agx-orin-64gb"


def model(kind: str, *sizes: int, tied: bool = True, **more: Any) -> Architecture:
    """A model of these sizes: width, layers, heads, key/value heads, head_dim, FFN, vocabulary."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
    )
    return architecture(
        {
            "model_type": kind,
            **dict(zip(names, sizes, strict=True)),
            "tie_word_embeddings": tied,
            **more,
        }
    )


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


def changed(model: Architecture, **sizes: Any) -> Architecture:
    """The same model with some keys of its config.json changed."""
    return model.with_config(**sizes)


def predicted(
    target: Target,
    model: Architecture,
    power_mode: str | None = None,
    engine: str | None = None,
    **workload: Any,
) -> Prediction:
    """`targets.predict` with the fields of the workload as keywords."""
    return predict(target, model, Workload(**workload), power_mode=power_mode, engine=engine)


def violations(
    target: Target, model: Architecture, jetpack: str | None = None, **options: Any
) -> list[Violation]:
    """`targets.check` with the fields of workload and artifact as keywords."""
    names = {field.name for field in fields(Workload)}
    workload = {name: value for name, value in options.items() if name in names}
    spec = {name: value for name, value in options.items() if name not in names}
    return check(target, model, Workload(**workload), ArtifactSpec(**spec), jetpack)
