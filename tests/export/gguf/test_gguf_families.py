"""Every family that llama.cpp has, written as GGUF and read with the gguf package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from family_table import PUBLISHED
from gguf_models import GGUF
from safetensors.torch import load_file, save_file

from edgewright.export.gguf.writer import export_gguf
from edgewright.models import architecture, expressible


def fields(folder: Path) -> dict[str, Any]:
    """The metadata of a file."""
    reader = gguf.GGUFReader(str(folder / "model.gguf"))
    return {key: field.contents() for key, field in reader.fields.items()}


@pytest.mark.parametrize("family", sorted(GGUF))
def test_a_family_is_written_under_its_name_in_llama_cpp(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    name, settings = GGUF[family]
    source = make_model(family, **settings)
    checked = export_gguf(source, tmp_path / "out", "fp16")
    assert checked["architecture"] == name
    assert checked["largest_difference"] < 1e-3
    found = fields(tmp_path / "out")
    assert found["general.architecture"] == name
    assert found[f"{name}.attention.key_length"] == 64


def test_published_models_that_llama_cpp_would_compute_otherwise_are_refused() -> None:
    """A window shorter than the context, a dynamic rope, or a family that llama.cpp lacks."""
    refused = {kind for kind, c in PUBLISHED.items() if expressible(architecture(c), "gguf")}
    assert refused == {"cwm", "glm", "helium", "internlm3", "phi3", "starcoder2"}


def test_a_tied_model_that_is_stored_as_its_head_only_has_its_table(
    make_model: Callable[..., Path], tmp_path: Path, copy_model: Callable[..., Path]
) -> None:
    source = copy_model("qwen2", **GGUF["qwen2"][1])
    file = source / "model.safetensors"
    state = load_file(file)
    state["lm_head.weight"] = state.pop("model.embed_tokens.weight")
    save_file(state, file, {"format": "pt"})
    export_gguf(source, tmp_path / "out", "fp16")
    tensors = {t.name: t for t in gguf.GGUFReader(str(tmp_path / "out" / "model.gguf")).tensors}
    assert "output.weight" not in tensors
    table = torch.from_numpy(tensors["token_embd.weight"].data.copy()).float()
    assert (table - state["lm_head.weight"]).abs().max() < 1e-3


YARN = {
    "rope_type": "yarn",
    "rope_theta": 20000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 20000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_rotary_positions_of_every_form(make_model: Callable[..., Path], tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0}
    long = {
        "rope_type": "longrope",
        "rope_theta": 20000.0,
        "short_factor": [1.0] * 32,
        "long_factor": [2.0 + i for i in range(32)],
        "original_max_position_embeddings": 64,
    }
    forms = {"linear": linear, "yarn": YARN, "llama3": LLAMA3, "longrope": long}
    found: dict[str, dict[str, Any]] = {}
    tables: dict[str, dict[str, Any]] = {}
    for form, block in forms.items():
        out = tmp_path / form
        export_gguf(make_model("llama", rope_parameters=block), out, "fp16")
        found[form] = fields(out)
        tensors = gguf.GGUFReader(str(out / "model.gguf")).tensors
        tables[form] = {t.name: t.data.tolist() for t in tensors if t.name.startswith("rope")}
        assert found[form]["llama.rope.freq_base"] == 20000
    assert found["linear"]["llama.rope.scaling.type"] == "linear"
    assert found["linear"]["llama.rope.scaling.factor"] == 4
    assert found["yarn"]["llama.rope.scaling.type"] == "yarn"
    assert found["yarn"]["llama.rope.scaling.original_context_length"] == 64
    freqs = tables["llama3"]["rope_freqs.weight"]
    assert freqs[0] == pytest.approx(1.0)
    assert freqs[-1] == pytest.approx(8.0)
    assert tables["longrope"]["rope_factors_long.weight"][:2] == pytest.approx([2.0, 3.0])
    assert found["longrope"]["llama.rope.scaling.attn_factor"] > 1


def test_gemma3_has_its_windows_and_both_bases(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    export_gguf(make_model("gemma3_text"), tmp_path / "out", "fp16")
    found = fields(tmp_path / "out")
    assert found["gemma3.attention.sliding_window"] == 16
    assert found["gemma3.attention.sliding_window_pattern"] == [True, False, True]
    assert found["gemma3.rope.freq_base"] == 500000
    assert found["gemma3.rope.freq_base_swa"] == 20000
