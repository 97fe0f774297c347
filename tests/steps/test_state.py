"""States of models: what a plan reads from config.json, against real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.steps.context import StepContext
from edgewright.steps.state import State, checkpoint_state

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_a_checkpoint_in_floating_point(family: str, make_model: MakeModel) -> None:
    source = make_model(family)
    state = checkpoint_state(source)
    stored = load_file(source / "model.safetensors")
    assert state.precision == "fp32"
    assert state.extra_bytes == 0
    assert state.table_bytes is None
    assert state.parameters == sum(tensor.numel() for tensor in stored.values())
    assert state.active_parameters == state.parameters
    assert state.weight_bytes == sum(t.numel() * t.element_size() for t in stored.values())


def test_a_quantized_checkpoint(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    options = QuantizeOptions(method="rtn", bits=8, group_size=32)
    quantize(options, make_model("llama"), tmp_path / "out", context)
    state = checkpoint_state(tmp_path / "out")
    assert (state.precision, state.group_size, state.sym, state.g_idx) == ("int8", 32, True, False)
    assert state.parameters == checkpoint_state(make_model("llama")).parameters


def test_idle_experts_are_not_active(make_model: MakeModel) -> None:
    state = checkpoint_state(make_model("mixtral"))
    assert state.active_parameters < state.parameters
    assert State(state.architecture, "int4").weight_bytes < state.weight_bytes


def test_a_plan_of_mixed_bits_needs_no_weights(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    options = QuantizeOptions(method="rtn", head_bits=8)
    quantize(options, make_model("llama"), tmp_path / "out", context)
    with_weights = checkpoint_state(tmp_path / "out")
    (tmp_path / "out" / "model.safetensors").unlink()
    without = checkpoint_state(tmp_path / "out")
    assert without.table_bytes is None
    assert with_weights.table_bytes is not None
    assert without.extra_bytes == 0 != with_weights.extra_bytes
    assert without.architecture.parameters == with_weights.architecture.parameters
