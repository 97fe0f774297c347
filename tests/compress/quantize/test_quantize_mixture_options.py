"""Mixtures of experts: rules, sensitivity, layouts, refused methods, and memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from safetensors.torch import save_file
from test_quantize_mixture import mixture_context

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.rules import Rule
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


@pytest.fixture(scope="module")
def plenty(text_file: Path) -> StepContext:
    return mixture_context(text_file)


@pytest.mark.parametrize("family", MIXTURES)
def test_files_with_fused_experts(
    family: str, copy_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    """Fused experts in the source give the same tensors under the same names."""
    plain = copy_model(family)
    fused = copy_model(family)
    of = architecture(read_config(plain))
    few = replace(plenty, calibration=replace(plenty.calibration, samples=1))
    save_file(of.loaded(read_state(plain)), fused / "model.safetensors", metadata={"format": "pt"})
    assert any(key.endswith("experts.gate_up_proj") for key in read_state(fused))
    options = QuantizeOptions(
        method="rtn", group_size=32, rules=(Rule(match="*.experts.1.*", skip=True),)
    )
    for source in (plain, fused):
        quantize(options, source, tmp_path / f"{source.name}-out", few)
    expected, got = (read_state(tmp_path / f"{source.name}-out") for source in (plain, fused))
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)


def test_rules_sensitivity_and_the_awq_layout(
    make_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    source = make_model("qwen2_moe")
    rules = [
        {"match": "*.experts.0.*", "skip": True},
        {"match": "*.experts.*.down_proj", "bits": 8},
    ]
    result = quantize(
        QuantizeOptions.model_validate(
            {"group_size": 32, "rules": rules, "sensitivity": {"budget": 0.02}}
        ),
        source,
        tmp_path / "a",
        plenty,
    )
    stored = read_state(tmp_path / "a")
    before = read_state(source)
    assert torch.equal(
        stored["model.layers.0.mlp.experts.0.up_proj.weight"],
        before["model.layers.0.mlp.experts.0.up_proj.weight"],
    )
    assert stored["model.layers.0.mlp.experts.1.down_proj.qweight"].shape == (64 // 4, 128)
    measured = result.details["sensitivity"]
    assert (
        "model.layers.0.mlp.shared_expert.up_proj" in measured
        and "model.layers.1.mlp.up_proj" in measured
    )
    assert not any(".experts." in name for name in measured)
    quantize(QuantizeOptions(group_size=32, format="awq"), source, tmp_path / "b", plenty)
    kept = read_config(tmp_path / "b")["quantization_config"]["modules_to_not_convert"]
    assert {"model.layers.0.mlp.gate", "model.layers.2.mlp.shared_expert_gate", "lm_head"} == set(
        kept
    ) - {
        "model.layers.2.mlp.gate",
        "model.layers.0.mlp.shared_expert_gate",
    }
    for folder in ("a", "b"):
        assert load_model(tmp_path / folder)


@pytest.mark.parametrize(
    "options",
    [{"method": "awq"}, {"method": "int8"}, {"method": "smoothquant"}, {"scaling": "awq"}],
)
def test_what_would_reach_the_router_is_refused(
    options: dict[str, Any], make_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="a norm that the router reads too") as caught:
        quantize(QuantizeOptions(**options), make_model("mixtral"), tmp_path / "out", plenty)
    assert "--method gptq or rtn" in caught.value.hint
    with pytest.raises(Refused, match="experts do not round their inputs"):
        quantize(
            QuantizeOptions(method="int8", scaling="none"),
            make_model("mixtral"),
            tmp_path / "out",
            plenty,
        )
    assert not list(tmp_path.iterdir())


def test_one_layer_of_a_mixture_is_held_at_a_time(
    make_model: MakeModel, plenty: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    most = 0
    held = Streamed.held

    @contextmanager
    def counting(self: Streamed, index: int) -> Any:
        nonlocal most
        with held(self, index) as layer:
            most = max(
                most, sum(not p.is_meta for other in self.layers for p in other.parameters())
            )
            assert most <= sum(1 for _ in layer.parameters())
            yield layer

    monkeypatch.setattr(Streamed, "held", counting)
    few = replace(plenty, calibration=replace(plenty.calibration, samples=2))
    quantize(
        QuantizeOptions(method="rtn", group_size=32), make_model("mixtral"), tmp_path / "out", few
    )
    assert most > 0
