"""What other programs write otherwise: transformers reads it, and so does every verb here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from wrapped_models import make_wrapped

from edgewright.checkpoints.config import end_tokens
from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import UsageError
from edgewright.export.gguf.writer import export_gguf
from edgewright.export.onnx.export import export_onnx

IDS = torch.arange(5, 30).unsqueeze(0)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Store other tensors in a checkpoint of one file."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def logits(model: Any) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return model(IDS).logits[0].float().numpy()


@pytest.mark.parametrize("tied", [True, False])
def test_weights_saved_from_the_base_model(
    tied: bool, copy_model: Any, context: Any, tmp_path: Path
) -> None:
    source = copy_model("llama", tie_word_embeddings=tied)
    rewrite(source, lambda state: {k.removeprefix("model."): v for k, v in state.items()})
    expected = logits(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32))
    assert np.array_equal(logits(load_model(source)), expected)
    export_onnx(source, tmp_path / "onnx", "fp32")  # compares with transformers
    quantize(QuantizeOptions(bits=8), source, tmp_path / "int8", context)
    state = load_file(tmp_path / "int8" / "model.safetensors")
    assert "model.layers.0.mlp.down_proj.qweight" in state
    assert np.abs(logits(load_model(tmp_path / "int8")) - expected).mean() < 0.05


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_biases_of_zeros_beside_packed_layers_count_as_none(
    family: str, make_model: Any, context: Any, tmp_path: Path
) -> None:
    """As AutoGPTQ wrote them, for models whose layers have no bias."""
    source = tmp_path / "packed"
    model = make_model(family, **({"use_sliding_window": False} if family == "qwen3" else {}))
    quantize(QuantizeOptions(group_size=32), model, source, context)
    plain = logits(load_model(source))

    def with_biases(value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(state: dict[str, Any]) -> dict[str, Any]:
            layers = [name.removesuffix(".qweight") for name in state if name.endswith(".qweight")]
            outputs = {name: state[f"{name}.qweight"].shape[1] for name in layers}
            made = {f"{name}.bias": torch.full((n,), value) for name, n in outputs.items()}
            return state | made

        return change

    rewrite(source, with_biases(0.0))
    assert np.array_equal(logits(load_model(source)), plain)
    export_onnx(source, tmp_path / "onnx", "int4")
    checked = export_gguf(source, tmp_path / "gguf", "int4")
    assert not checked["tensors"].get("F32", 0) > 13  # norms only
    rewrite(source, with_biases(0.5))
    for writes in (export_gguf, export_onnx):
        with pytest.raises(UsageError, match="do not match"):
            writes(source, tmp_path / "other", "int4")
    with pytest.raises(UsageError, match="do not match"):
        load_model(source)


def test_a_bias_of_zeros_that_the_model_has_stays(
    make_model: Any, context: Any, tmp_path: Path
) -> None:
    """A qwen2 has biases, and those of a fresh one are zeros."""
    model = make_model("qwen2", use_sliding_window=False)
    quantize(QuantizeOptions(group_size=32), model, tmp_path / "packed", context)
    assert "model.layers.0.self_attn.q_proj.bias" in load_model(tmp_path / "packed").state_dict()
    checked = export_gguf(tmp_path / "packed", tmp_path / "gguf", "int4")
    assert checked["tensors"]["F32"] == 7 + 9


def test_a_text_model_has_the_end_tokens_of_its_wrapper(
    tokenizer_dir: Path, tmp_path: Path
) -> None:
    source = make_wrapped(tmp_path / "wrapped", "mistral3", tokenizer_dir)
    file = source / "config.json"
    config = json.loads(file.read_text()) | {"eos_token_id": [7, 9]}
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        config["text_config"].pop(name, None)
    file.write_text(json.dumps(config))
    (source / "generation_config.json").unlink(missing_ok=True)
    assert end_tokens(source) == [7, 9]
    export_onnx(source, tmp_path / "onnx", "fp32")
    assert end_tokens(tmp_path / "onnx") == [7, 9]
