"""Make the small models, texts and recipes that the commands read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..equivalence.inputs import write_measurements, write_model, write_texts, write_tokenizer

__all__ = ["write_inputs"]

SIZES: dict[str, Any] = {
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
EVALUATE = {
    "tasks": ["reasoning"],
    "limit": 2,
    "max_new_tokens": 4,
    "perplexity": ["text:../inputs/story.txt"],
    "windows": 4,
    "seq_len": 32,
    "latency": None,
}
RECIPE: dict[str, Any] = {
    "name": "small",
    "model": "../inputs/model",
    "device": "cpu",
    "calibration": {"source": "text:../inputs/story.txt", "samples": 4, "seq_len": 32},
    "evaluate": EVALUATE,
    "steps": [
        {"kind": "prune", "heads": 0.5},
        {
            "kind": "distill",
            "teacher": "baseline",
            "data": "text:../inputs/story.txt",
            "seq_len": 32,
            "batch_size": 4,
            "stages": [{"loss": "logits", "steps": 2}],
        },
        {"kind": "quantize", "group_size": 32},
        {"kind": "export", "precision": "int4"},
    ],
    "gate": {"candidate": "quantize", "limits": {"size_bytes": {"max_ratio": 2.0}}},
}
"""A recipe of the most common steps, with a gate."""


def write_inputs() -> None:
    """Write the inputs to the current directory, which is called `inputs`."""
    write_texts()
    tokenizer = Path("tokenizer")
    write_tokenizer(tokenizer)
    for seed, name in enumerate(("model", "teacher")):
        write_model(Path(name), tokenizer, "llama", SIZES, seed, "float32")
    write_measurements(Path("measured"))
    for name in ("base", "same"):
        shutil.move(f"measured/{name}.json", f"{name}.json")
    sweep = RECIPE | {
        "evaluate": EVALUATE | {"tasks": []},
        "steps": [{"kind": "quantize", "method": "rtn", "group_size": 32}],
        "gate": None,
    }
    for name, recipe in (("recipe", RECIPE), ("sweep", sweep)):
        Path(f"{name}.yaml").write_text(json.dumps(recipe, indent=2))
