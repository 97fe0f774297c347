"""Mixtures of experts, quantized expert by expert: what is written, on which tokens it was calibrated, what is left alone or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import MIXTURES

from edgewright.checkpoint import read_config, read_state
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.loading import load_model
from edgewright.models import family_of
from edgewright.steps import StepContext

MakeModel = Callable[..., Path]


@pytest.fixture(scope="module", params=MIXTURES)
def quantized(
    request: pytest.FixtureRequest, make_model: MakeModel, context: StepContext, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A family's model, and the same in 4 bits with groups of 32."""
    source = make_model(request.param)
    out = tmp_path_factory.mktemp("quantized") / request.param
    quantize(QuantizeOptions(group_size=32), source, out, context)
    return source, out


def test_every_expert_is_packed_under_its_name_in_files(quantized: tuple[Path, Path]) -> None:
    source, out = quantized
    before, stored, config = read_state(source), read_state(out), read_config(source)
    family = family_of(config)
    packed = family.linear_modules(config)
    assert any(".experts.3." in name for name in packed)
    dense = family.stored({f"model.{k}" if False else k: v for k, v in load_model(out).state_dict().items()})
    for module, (outputs, width) in packed.items():
        parts = part_of(stored, module)
        assert parts.keys() - {"bias"} == {"qweight", "qzeros", "scales", "g_idx"}
        assert parts["qweight"].shape == (width // 8, outputs)
        assert torch.equal(dense[f"{module}.weight"][:4], dequantize_gptq(parts, 4, outputs=4))
    rest = {key for key in before if key.rpartition(".")[0] not in packed or key.endswith(".bias")}
    assert stored.keys() - {f"{m}.{part}" for m in packed for part in ("qweight", "qzeros", "scales", "g_idx")} == rest
    assert {f"{name}.weight" for name in family.routers(config)} <= rest
    for key in rest:
        assert torch.equal(stored[key], before[key]), key
