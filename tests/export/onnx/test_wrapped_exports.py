"""Exports of models inside wrappers hold their text model alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from wrapped_models import WRAPPED, load_stock, make_wrapped, text_logits

from edgewright.checkpoints.tensors import read_state, tensor_specs
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.steps.context import StepContext
from edgewright.targets.edge_llm_package import hand_over

ROWS = torch.randint(10, 500, (1, 40), generator=torch.Generator().manual_seed(3))


def exported_logits(folder: Path) -> torch.Tensor:
    """Logits [1, seq, vocab] of an artifact for `ROWS`."""
    places = np.arange(ROWS.shape[1])[None]
    decoder = OnnxDecoder(folder, threads=1)
    logits, _ = decoder.forward(ROWS.numpy(), np.ones_like(places), places)
    return torch.from_numpy(logits)


def relative_gap(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, relative to the largest wanted value."""
    return float((got - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("format", ["onnx", "ort"])
@pytest.mark.parametrize("name", sorted(WRAPPED))
def test_the_text_model_is_exported(
    name: str, format: str, tokenizer_dir: Path, tmp_path: Path
) -> None:
    source = make_wrapped(tmp_path / "source", name, tokenizer_dir)
    export_onnx(source, tmp_path / "out", "fp32", format=format)
    wanted = text_logits(load_stock(source), ROWS)
    assert relative_gap(exported_logits(tmp_path / "out"), wanted) <= 1e-4
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "vision_config" not in config
    assert "wrapped_in" not in config
    assert config["architectures"][0].endswith("ForCausalLM")
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()


def test_a_quantized_text_model_is_exported_bit_for_bit(
    tokenizer_dir: Path, tmp_path: Path, context: StepContext
) -> None:
    source = make_wrapped(tmp_path / "source", "qwen3_vl", tokenizer_dir)
    quantize(QuantizeOptions(group_size=32), source, tmp_path / "packed", context)
    result = export_onnx(tmp_path / "packed", tmp_path / "out", "int4", format="ort")
    assert result.parity["parity/top1_prefill"] >= 0.995


def test_edge_llm_gets_a_text_checkpoint(tokenizer_dir: Path, tmp_path: Path) -> None:
    source = make_wrapped(
        tmp_path / "source", "qwen3_vl", tokenizer_dir, head_dim=128, num_attention_heads=4
    )
    hand_over(source, tmp_path / "out", "fp16")
    made = tmp_path / "out" / "checkpoint"
    model = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32).eval()
    assert torch.equal(text_logits(model, ROWS), text_logits(load_stock(source), ROWS))
    assert tensor_specs(made).keys() == read_state(source).keys()
