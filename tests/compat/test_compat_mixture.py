"""GPTQModel reads mixtures whose experts are packed one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgewright.checkpoints.tensors import read_state

from test_compat_formats import GPTQMODEL, made, ours, read_by  # isort: skip

MakeModel = Callable[..., Path]
SPARSE: dict[str, dict[str, Any]] = {
    "mixtral": {},
    "qwen2_moe": {"mlp_only_layers": []},
    "qwen3_moe": {"decoder_sparse_step": 1},
}
"""Experts in every layer: GPTQModel 7.6 loads no weights for a dense FFN among them."""
MIXTRAL = {"block_sparse_moe": "mlp", "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
"""Names in Mixtral's own files (also ours and vLLM's) -> names that GPTQModel 7.6 expects."""


def renamed(folder: Path) -> None:
    """Give Mixtral's tensors the names that GPTQModel expects."""
    state = {
        ".".join(MIXTRAL.get(part, part) for part in key.split(".")): tensor
        for key, tensor in read_state(folder).items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.compat
@pytest.mark.parametrize("family", SPARSE)
def test_gptqmodel_reads_a_mixture(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model(family, dtype="float16", num_hidden_layers=2, **SPARSE[family])
    out = made(tmp_path / "out", source, group_size=32)
    expected = ours(out)
    if family == "mixtral":
        renamed(out)
    answer = read_by("gptqmodel", GPTQMODEL, out)
    assert sum(".experts." in name for name in answer["kinds"]) == 3 * 2 * (
        12 if family == "qwen3_moe" else 8
    )
    theirs = torch.tensor(answer["logits"])
    # Everything is float16, and rounding may send a token to another expert.
    assert (expected - theirs).abs().max() <= 2e-2 * expected.abs().max()
    assert (expected.argmax(-1) == theirs.argmax(-1)).float().mean() >= 0.95
