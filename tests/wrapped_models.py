"""Tiny models inside wrappers, made with stock classes, and the calls that tests make on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

ROPE = {"rope_type": "default", "rope_theta": 500000.0}
IMAGE = 3
"""The token that stands for a patch of an image."""
TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rope_parameters": ROPE,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
PATCHES = {"hidden_size": 64, "intermediate_size": 96, "patch_size": 8}
QWEN_VISION = {
    **PATCHES,
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 128,
    "temporal_patch_size": 1,
    "spatial_merge_size": 2,
}
QWEN_TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": 4,
    "vision_start_token_id": 5,
    "vision_end_token_id": 6,
}
WRAPPED: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {
            **TEXT,
            "model_type": "gemma3_text",
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 48,
            "rope_parameters": {
                "full_attention": ROPE,
                "sliding_attention": {"rope_type": "default", "rope_theta": 20000.0},
            },
        },
        "vision_config": {
            **PATCHES,
            "model_type": "siglip_vision_model",
            "image_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        "mm_tokens_per_image": 4,
        "image_token_index": IMAGE,
        "boi_token_index": 5,
        "eoi_token_index": 6,
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
        "vision_config": {
            **PATCHES,
            "model_type": "pixtral",
            "image_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "head_dim": 32,
        },
        "image_token_index": IMAGE,
        "tie_word_embeddings": False,
    },
    "qwen2_5_vl": {
        "text_config": {
            **TEXT,
            "rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]},
            "tie_word_embeddings": False,
        },
        "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [1], "window_size": 32},
        **QWEN_TOKENS,
        "tie_word_embeddings": False,
    },
    "qwen3_vl": {
        "text_config": {
            **TEXT,
            "head_dim": 32,
            "rope_parameters": {**ROPE, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
        },
        "vision_config": {
            **QWEN_VISION,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        **QWEN_TOKENS,
        "tie_word_embeddings": True,
    },
}
"""By model type. Two of them have a head of their own."""


def make_wrapped(folder: Path, name: str, tokenizer: Path, **changes: Any) -> Path:
    """Save a random wrapper with a tokenizer and a file of its image processor.

    Args:
        folder: the directory to make.
        name: model type of the wrapper.
        tokenizer: directory of the tokenizer.
        changes: of the text model's config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    torch.manual_seed(0)
    settings = {**WRAPPED[name], "text_config": {**WRAPPED[name]["text_config"], **changes}}
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(name, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * noise)
    model.save_pretrained(folder)
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32}, indent=3))
    return folder


def load_stock(path: Path) -> Any:
    """The wrapper as stock transformers loads it, in evaluation mode; all its weights are found."""
    import torch
    from transformers import AutoModelForImageTextToText

    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        path, dtype=torch.float32, output_loading_info=True
    )
    model, report = loaded
    assert not report["missing_keys"], report
    assert not report["unexpected_keys"], report
    return model.eval()


def text_logits(model: Any, rows: Any) -> Any:
    """Logits [rows, seq, vocab] of a loaded model for text alone."""
    import torch

    with torch.no_grad():
        return model(input_ids=rows, use_cache=False).logits


def answers(model: Any) -> list[list[int]]:
    """Greedy tokens after a text, and after a text with an image of noise."""
    import torch

    generator = torch.Generator().manual_seed(1)
    text = torch.randint(10, 500, (1, 12), generator=generator)
    found = [model.generate(input_ids=text, max_new_tokens=5, do_sample=False)]
    image = torch.tensor([[5, *[IMAGE] * 4, 6]])
    ids = torch.cat([text, image, text], 1)
    kinds = (ids == IMAGE).long()
    kind = model.config.model_type
    pixels = torch.randn(1, 3, 32, 32, generator=generator)
    more = {"pixel_values": pixels}
    if kind == "gemma3":
        more["token_type_ids"] = kinds
    elif kind == "mistral3":
        more["image_sizes"] = torch.tensor([[32, 32]])
    else:
        grid = torch.tensor([[1, 4, 4]])
        more = {
            "pixel_values": pixels.view(16, -1),
            "image_grid_thw": grid,
            "mm_token_type_ids": kinds,
        }
    found.append(model.generate(input_ids=ids, max_new_tokens=5, do_sample=False, **more))
    return [tokens[0].tolist() for tokens in found]
