"""Models of a family that differ from its usual ones by a switch in config.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_architecture
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder

SLIDING, FULL = "sliding_attention", "full_attention"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "parallel stablelm": ("stablelm", {"use_parallel_residual": True}),
    "cohere2 with biases": ("cohere2", {"attention_bias": True}),
    "exaone4 without windows": (
        "exaone4",
        {"sliding_window": None, "layer_types": [FULL] * 3},
    ),
    "gemma2 without limits": (
        "gemma2",
        {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    ),
    "granite with biases": ("granite", {"mlp_bias": True}),
    "helium with biases": ("helium", {"mlp_bias": True}),
    "nemotron with biases": ("nemotron", {"attention_bias": True, "mlp_bias": True}),
    "phi3 with a window": ("phi3", {"sliding_window": 16}),
    "smollm3 by an interval": ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 2}),
    "starcoder2 without biases": ("starcoder2", {"use_bias": False}),
    "starcoder2 without a window": ("starcoder2", {"sliding_window": None}),
    "olmo3 without types": ("olmo3", {"layer_types": None, "num_hidden_layers": 4}),
    "gemma2 with types of its own": ("gemma2", {"layer_types": [FULL, SLIDING, FULL]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_switch_means_what_it_means_in_transformers(
    variant: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    family, changes = VARIANTS[variant]
    source = make_model(family, **changes)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    assert read_architecture(source).parameters == model.num_parameters()
    ids = np.random.default_rng(0).integers(1, 500, (1, 48))
    with torch.inference_mode():
        wanted = model(input_ids=torch.from_numpy(ids)).logits.numpy()
    for format in ("onnx", "ort"):
        export_onnx(source, tmp_path / format, "fp32", format=format)
        found, _ = OnnxDecoder(tmp_path / format, threads=1).forward(ids, np.ones_like(ids))
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max(), format
