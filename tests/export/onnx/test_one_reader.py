"""Every export format writes the model that stock transformers loads, and is compared with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from model_files import configure, put, rewrite
from safetensors.torch import load_file

from edgewright.checkpoints import loading
from edgewright.checkpoints.loading import stock_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import ParityFailed, UsageError
from edgewright.export.gguf.writer import export_gguf
from edgewright.export.onnx import export as export_module
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.export.triton.repository import export_triton
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
IDS = np.array([[5, 9, 101, 7, 33, 250, 4, 18]])


def other_weights_beside(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    put(folder, {k: torch.randn_like(t) for k, t in state.items()}, "model_old.safetensors")


def head_of_its_own(folder: Path) -> None:
    configure(folder, tie_word_embeddings=True)
    rewrite(folder, lambda state: state.update({HEAD: state[EMBEDDING].flip(0) * 1.5}))


def stored_buffers(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(folder, lambda state: state.update({name: torch.ones(32)}))


KINDS = {"files": other_weights_beside, "head": head_of_its_own, "buffers": stored_buffers}


def expected(folder: Path) -> np.ndarray:
    with torch.no_grad():
        return stock_model(folder)(input_ids=torch.from_numpy(IDS)).logits.numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", ["onnx", "ort", "tensorrt"])
def test_graphs_compute_what_stock_transformers_computes(
    format: str, kind: str, copy_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model("llama")
    KINDS[kind](folder)
    result = export_onnx(folder, tmp_path / "out", "fp32", format=format)
    assert result.reference == "stock transformers"
    assert json.loads((tmp_path / "out" / "edgewright.json").read_text())["reference"] == "stock"
    logits, *_ = OnnxDecoder(tmp_path / "out").forward(IDS, np.ones_like(IDS))
    np.testing.assert_allclose(logits, expected(folder), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_triton_repository_too(kind: str, copy_model: MakeModel, tmp_path: Path) -> None:
    folder = copy_model("llama")
    KINDS[kind](folder)
    assert export_triton(folder, tmp_path / "out", "fp32").reference == "stock transformers"


@pytest.mark.parametrize("kind", KINDS)
def test_gguf_holds_the_weights_that_stock_transformers_loads(
    kind: str, copy_model: MakeModel, tmp_path: Path
) -> None:
    folder = copy_model("qwen3", use_sliding_window=False)
    KINDS[kind](folder)
    checked = export_gguf(folder, tmp_path / "out", "fp16")
    assert checked["reference"] == "stock transformers"
    state = stock_model(folder).state_dict()
    tensors = {t.name: t for t in gguf.GGUFReader(str(tmp_path / "out" / "model.gguf")).tensors}
    for theirs, ours in {"output": HEAD, "token_embd": EMBEDDING}.items():
        found = torch.from_numpy(tensors[f"{theirs}.weight"].data.astype(np.float32))
        torch.testing.assert_close(found, state[ours], rtol=1e-3, atol=1e-3)


def test_a_fault_of_our_own_reader_is_found(
    copy_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If our reader took the wrong file, the comparison would fail: it does not use our reader."""
    folder = copy_model("llama")
    other_weights_beside(folder)
    monkeypatch.setattr(
        "edgewright.checkpoints.inventory.weight_files",
        lambda path: [path / "model_old.safetensors"],
    )
    with pytest.raises(ParityFailed, match="max_abs_diff"):
        export_onnx(folder, tmp_path / "out", "fp32")
    with pytest.raises(ParityFailed, match="differs from that of stock transformers"):
        export_gguf(folder, tmp_path / "gguf", "fp16")
    assert not (tmp_path / "gguf").exists()


def test_what_does_not_fit_is_streamed_and_says_so(
    make_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_model("llama")
    monkeypatch.setattr(loading, "free_memory", lambda _device="cpu": 1 << 20)
    note, *_ = export(ExportOptions(), source, tmp_path / "out", context).notes
    assert "streamed by our reader" in note
    assert json.loads((tmp_path / "out" / "edgewright.json").read_text())["reference"] == "streamed"
    assert "streamed" in export_gguf(source, tmp_path / "gguf", "fp16")["reference"]


def test_packed_layers_are_dequantized_by_us_and_it_says_so(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    quantize(QuantizeOptions(method="rtn"), make_model("llama"), tmp_path / "int4", context)
    result = export_onnx(tmp_path / "int4", tmp_path / "out", "int4")
    assert "dequantized by our reader" in result.reference


def test_edge_llm_is_handed_the_model_alone(
    copy_model: MakeModel, context: Any, tmp_path: Path
) -> None:
    from edgewright.targets.edge_llm_package import hand_over

    folder = copy_model("llama", dtype="float16")
    other_weights_beside(folder)
    hand_over(folder, tmp_path / "out", "fp16")
    made = tmp_path / "out" / "checkpoint"
    assert [p.name for p in made.glob("*.safetensors")] == ["model.safetensors"]
    assert (made / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_stock_transformers_sees_what_is_missing(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    rewrite(folder, lambda state: state.pop("model.norm.weight"))
    with pytest.raises(UsageError, match=r"missing \['model.norm.weight'\]"):
        stock_model(folder)
    assert export_module.REFERENCES["stock"] == "stock transformers"
