"""AWQ files of some families hold scales behind an activation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import BASE
from safetensors.torch import load_file, save_file
from transformers.integrations.awq import AWQ_SCALES_MAPPINGS

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.tensors import stored_tensors
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.models import FAMILIES
from edgewright.steps.context import CalibrationData, StepContext

NAMES = {f"model.layers.{index}.mlp.act.scales" for index in range(BASE["num_hidden_layers"])}


def test_our_families_with_scaled_activations_are_those_of_transformers() -> None:
    ours = {name for name, family in FAMILIES.items() if family.awq_activation}
    assert ours == AWQ_SCALES_MAPPINGS.keys() & FAMILIES.keys()


def quantized(source: Path, out: Path, method: str) -> Path:
    options = QuantizeOptions.model_validate({"method": method})
    quantize(options, source, out, StepContext(CalibrationData(samples=2, seq_len=32)))
    return out


def test_they_are_written_as_ones_and_are_no_part_of_the_model(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_model("starcoder2")
    awq = quantized(source, tmp_path / "awq", "awq")
    state = load_file(awq / "model.safetensors")
    assert {name for name in state if name.endswith("act.scales")} == NAMES
    width = read_architecture(source).layers[0].ffn.size
    for name in NAMES:
        assert torch.equal(state[name], torch.ones(width, dtype=state[name].dtype))
    assert not NAMES & set(stored_tensors(awq))
    gptq = quantized(source, tmp_path / "gptq", "gptq")
    assert not NAMES & set(load_file(gptq / "model.safetensors"))


def test_a_file_whose_activations_are_scaled_is_refused(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    awq = quantized(make_model("starcoder2"), tmp_path / "awq", "awq")
    file = awq / "model.safetensors"
    state = load_file(file)
    state[min(NAMES)][3] = 2.0
    save_file(state, file, {"format": "pt"})
    with pytest.raises(Refused, match=r"layers\.0\.mlp\.act\.scales"):
        stored_tensors(awq)
