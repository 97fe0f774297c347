"""`genai_config.json`: its content, and which artifacts have none.

`test_compat_onnx` reads it with onnxruntime-genai.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx


def exported(model: Path, out: Path, **options: Any) -> dict[str, Any] | None:
    """The genai_config.json of an fp32 artifact; None where there is none."""
    export_onnx(model, out, "fp32", **options)
    file = out / "genai_config.json"
    return json.loads(file.read_text()) if file.is_file() else None


def test_families_that_onnxruntime_genai_does_not_know(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    types = {
        family: (exported(make_model(family), tmp_path / family) or {})["model"]["type"]
        for family in ("glm4", "phi3")
    }
    assert types == {"glm4": "decoder", "phi3": "phi3"}


@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_sizes_tokens_and_shared_memory(
    make_model: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    config = exported(make_model("qwen3"), tmp_path / "out", format=format)
    assert config is not None
    model, search = config["model"], config["search"]
    assert (model["type"], model["vocab_size"], model["context_length"]) == ("qwen3", 512, 256)
    assert (model["eos_token_id"], model["pad_token_id"]) == ([0], 0)
    assert "bos_token_id" not in model  # the model has none, and null is no number
    decoder = model["decoder"]
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (
        3,
        2,
        64,
    )
    assert search == {
        "do_sample": False,
        "max_length": 256,
        "past_present_share_buffer": format == "ort",
    }


def test_names_are_those_of_the_graph(make_model: Callable[..., Path], tmp_path: Path) -> None:
    config = exported(make_model("llama"), tmp_path / "out")
    assert config is not None
    decoder, graph = (
        config["model"]["decoder"],
        json.loads((tmp_path / "out" / "edgewright.json").read_text()),
    )
    for side in ("inputs", "outputs"):
        names = decoder[side].values()
        whole = [name % layer if "%d" in name else name for name in names for layer in range(3)]
        assert set(whole) == set(graph[side])
    assert (tmp_path / "out" / decoder["filename"]).is_file()


def test_end_tokens_of_generation_config_come_first(
    copy_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = copy_model("llama")
    (source / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    config = exported(source, tmp_path / "out")
    assert config is not None
    assert config["model"]["eos_token_id"] == [5, 7]


def test_a_windowed_cache_and_a_model_without_an_end_have_none(
    make_model: Callable[..., Path], copy_model: Callable[..., Path], tmp_path: Path
) -> None:
    assert exported(make_model("llama"), tmp_path / "windowed", cut=Cut(window=24)) is None
    endless = copy_model("llama")
    (endless / "generation_config.json").unlink()
    config = json.loads((endless / "config.json").read_text())
    (endless / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    assert exported(endless, tmp_path / "endless") is None
