"""Recipes and policies that the jobs read."""

from __future__ import annotations

from typing import Any

EVALUATE = {
    "tasks": ["reasoning"],
    "limit": 4,
    "max_new_tokens": 16,
    "perplexity": ["text:story.txt"],
    "windows": 4,
    "seq_len": 32,
    "latency": None,
}
STAGES = [{"loss": "hidden", "steps": 4}, {"loss": "logits", "steps": 6}]
RECIPE: dict[str, Any] = {
    "name": "small",
    "model": "models/llama",
    "target": "jetson-orin-nano-8gb",
    "device": "cpu",
    "calibration": {"source": "text:story.txt", "samples": 6, "seq_len": 32},
    "evaluate": EVALUATE,
    "steps": [
        {"kind": "prune", "heads": 0.25},
        {
            "kind": "distill",
            "teacher": "baseline",
            "student": {"from": "prune", "ffn": 0.5},
            "data": "text:story.txt",
            "seq_len": 32,
            "batch_size": 4,
            "stages": STAGES,
        },
        {"kind": "quantize", "group_size": 64},
        {"kind": "export", "name": "int4", "precision": "int4"},
        {"kind": "export", "name": "int8", "from": "distill", "precision": "int8-dynamic"},
        {
            "kind": "iterate",
            "from": "baseline",
            "rounds": 2,
            "prune": {"ffn": 0.5, "criterion": "norm"},
            "recover": {
                "data": "text:story.txt",
                "seq_len": 32,
                "batch_size": 4,
                "stages": [{"loss": "logits", "steps": 3}],
            },
            "held_out_rows": 6,
        },
    ],
    "gate": {
        "candidate": "int4",
        "limits": {"perplexity/story": {"max_ratio": 100.0}, "size_bytes": {"max_ratio": 0.9}},
    },
}
"""A recipe with every kind of step."""
SHORT_RECIPE = RECIPE | {
    "name": "short",
    "evaluate": EVALUATE | {"tasks": []},
    "steps": [
        {"kind": "prune", "heads": 0.25, "criterion": "norm"},
        {"kind": "quantize", "group_size": 64},
    ],
    "gate": {"candidate": "quantize", "limits": {"size_bytes": {"max_ratio": 0.9}}},
}
REFUSED_RECIPE = RECIPE | {
    "model": "models/llama-3.1-8b",
    "target": "jetson-orin-nano-4gb",
    "steps": [{"kind": "quantize"}, {"kind": "export", "precision": "int4"}],
    "gate": None,
}
OPTIONS_RECIPE = RECIPE | {
    "name": "options",
    "target": None,
    "steps": [
        {"kind": "quantize", "name": "gptq", "group_size": 64, "refine": 0, "damp": 0.02},
        {"kind": "quantize", "name": "refined", "from": "baseline", "refine": 2, "group_size": 32},
        {
            "kind": "quantize",
            "name": "drawn",
            "from": "baseline",
            "hessian_tokens": 1,
            "rules": [
                {"match": "*.down_proj", "bits": 8},
                {"match": "model.layers.0.*", "skip": True},
            ],
        },
        {
            "kind": "prune",
            "name": "budget",
            "from": "baseline",
            "budget": {"parameters": 1_100_000, "over": ["ffn"]},
        },
        {
            "kind": "distill",
            "from": "baseline",
            "teacher": "models/other",
            "data": "text:story.txt",
            "seq_len": 32,
            "batch_size": 4,
            "stages": [
                {"loss": "hidden", "steps": 4, "layers": [[1, 2], [3, 3]]},
                {"loss": "labels", "steps": 4, "data": "text:other.txt"},
            ],
        },
    ],
    "gate": None,
}
"""Options that only a recipe has."""
TRACES_RECIPE = RECIPE | {
    "name": "traces",
    "model": "builtin:tiny-reasoner",
    "traces": {"prompts": "builtin:reasoning", "limit": 4, "chains": 2, "max_new_tokens": 96},
    "evaluate": EVALUATE | {"tasks": []},
    "steps": [
        {
            "kind": "distill",
            "teacher": None,
            "data": "traces",
            "seq_len": 128,
            "batch_size": 2,
            "stages": [{"loss": "labels", "steps": 3}],
        }
    ],
    "gate": None,
}
POLICY = {
    "inconclusive": "warn",
    "limits": {
        "accuracy/reasoning": {"max_drop": 0.02},
        "perplexity/text": {"max_ratio": 1.02},
        "size_bytes": {"max_ratio": 1.0},
    },
}
