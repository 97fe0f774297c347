"""Models that transformers itself would answer with a traceback get one message each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.settings import load_settings
from edgewright.errors import Refused, UsageError

MakeModel = Callable[..., Path]


def edit(source: Path, **values: Any) -> Path:
    file = source / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return source


@pytest.mark.parametrize("read", [load_model, load_settings])
def test_a_config_that_transformers_refuses(
    read: Callable[[Path], Any], copy_model: MakeModel
) -> None:
    # 512 is no multiple of 6.
    source = edit(copy_model("llama"), num_attention_heads=6, num_key_value_heads=2)
    with pytest.raises(UsageError, match=r"config\.json: transformers cannot read it") as caught:
        read(source)
    assert "\n" not in str(caught.value)


def test_quantized_by_a_method_that_is_not_ours(copy_model: MakeModel) -> None:
    source = edit(
        copy_model("qwen2"),
        quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True},
    )
    with pytest.raises(Refused, match="bitsandbytes, which is not read here"):
        load_model(source)
    weights = edit(copy_model("qwen2"), num_hidden_layers=7, layer_types=["full_attention"] * 7)
    with pytest.raises(UsageError, match="missing"):
        load_model(weights)


@pytest.mark.parametrize("scale", [0, "x", [1], 1e400])
def test_a_scale_is_checked_before_it_is_used(scale: Any, tmp_path: Path) -> None:
    """Who reads the tensors asks for the scale of logits, before there is an architecture."""
    values = {"model_type": "granite", "logits_scaling": scale}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"config\.json: .*logits_scaling"):
        read_config(tmp_path)
