"""Mixtures of experts: each expert is packed on its own, and calibrated on its own tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import MIXTURES
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import InMemory, Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.layer_inputs import first_inputs
from edgewright.compress.calibration.layer_walk import LayerWalk
from edgewright.compress.quantize.gptq import gptq, rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.compress.quantize.scaling import Scaler
from edgewright.compress.quantize.sequential import MIN_TOKENS_PER_CHANNEL, sequential_layers
from edgewright.compress.quantize.session import QuantizeSession
from edgewright.models import Layer, architecture
from edgewright.steps.context import CalibrationData, StepContext, StepResult

MakeModel = Callable[..., Path]
Made = tuple[Path, Path, StepResult]
PARTS = ("qweight", "qzeros", "scales", "g_idx")
SCHEME = Scheme(4, 32)


def mixture_context(text_file: Path) -> StepContext:
    """Text that reaches many experts of the tiny mixtures, but not all of them."""
    return StepContext(CalibrationData(f"text:{text_file}", samples=6, seq_len=32))


@pytest.fixture(scope="module")
def plenty(text_file: Path) -> StepContext:
    return mixture_context(text_file)


@pytest.fixture(scope="module", params=MIXTURES)
def made(
    request: pytest.FixtureRequest,
    make_model: MakeModel,
    plenty: StepContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """A family's model, the same in 4 bits with groups of 32, and the result of the step."""
    source = make_model(request.param)
    out = tmp_path_factory.mktemp("quantized") / request.param
    return source, out, quantize(QuantizeOptions(group_size=32, bf16=False), source, out, plenty)


def test_every_expert_is_packed_under_its_name_in_files(made: Made) -> None:
    source, out, _ = made
    before = read_state(source)
    stored = read_state(out)
    config = read_config(source)
    model = architecture(config)
    packed = model.linears()
    loaded = model.stored(load_model(out).state_dict())
    for module, (outputs, width) in packed.items():
        parts = part_of(stored, module)
        assert parts.keys() - {"bias"} == set(PARTS)
        assert parts["qweight"].shape == (width // 8, outputs)
        assert torch.equal(loaded[f"{module}.weight"][:2], dequantize_gptq(parts, 4, outputs=2))
    rest = {key for key in before if key.rpartition(".")[0] not in packed or key.endswith(".bias")}
    assert stored.keys() - {f"{m}.{part}" for m in packed for part in PARTS} == rest
    assert {f"{name}.weight" for name in model.routers} <= rest
    for key in rest:
        assert torch.equal(stored[key], before[key]), key


def test_names_are_those_that_readers_know(made: Made) -> None:
    names = {
        re.sub(r"\d+", "N", key)
        for key in read_state(made[1])
        if ".experts." in key or "shared" in key or ".gate.weight" in key
    }
    model_type = read_config(made[0])["model_type"]
    plain = {
        f"model.layers.N.mlp.experts.N.{p}_proj.{part}"
        for p in ("gate", "up", "down")
        for part in PARTS
    }
    shared = {
        f"model.layers.N.mlp.shared_expert.{p}_proj.{part}"
        for p in ("gate", "up", "down")
        for part in PARTS
    }
    if model_type == "mixtral":
        experts = {
            f"model.layers.N.block_sparse_moe.experts.N.wN.{part}" for part in PARTS
        }  # w1, w3 and w2
        assert names == experts | {"model.layers.N.block_sparse_moe.gate.weight"}
    elif model_type == "qwen2_moe":
        assert names == plain | shared | {
            "model.layers.N.mlp.gate.weight",
            "model.layers.N.mlp.shared_expert_gate.weight",
        }
    else:
        assert names == plain | {"model.layers.N.mlp.gate.weight"}


def tokens_of_experts(source: Path, finished: Path, rows: list[Tensor]) -> dict[str, Tensor]:
    """Inputs [tokens, in] of each expert's projections in the finished model, by stored name."""
    described = architecture(read_config(source))
    model = load_model(finished)
    seen = dict[str, list[Tensor]]()

    def watch(layer: Layer) -> Callable[..., None]:
        def hook(pool: Any, args: tuple[Tensor, Tensor, Tensor]) -> None:
            tokens, chosen, _ = args
            for expert in range(len(pool.down_proj)):
                mine = tokens[(chosen == expert).any(1)]
                gate, up = pool.gate_up_proj[expert].chunk(2)
                inside = pool.act_fn(mine @ gate.T) * (mine @ up.T)
                assert layer.experts
                (gate_up, (down,)) = layer.experts.expert(expert).input_groups
                for name in gate_up:
                    seen.setdefault(layer.full(name), []).append(mine)
                seen.setdefault(layer.full(down), []).append(inside)

        return hook

    for layer in described.layers:
        if layer.experts:
            pool = model.get_submodule(layer.full(layer.experts.pool))
            pool.register_forward_pre_hook(watch(layer))
    with torch.no_grad():
        for row in rows:
            model(input_ids=row[:1], use_cache=False)
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_each_expert_was_calibrated_on_its_own_tokens(made: Made, plenty: StepContext) -> None:
    """Calibrating on an expert's inputs in the finished model gives the same integers.

    There, all inputs come from finished layers.
    """
    source, out, result = made
    before = read_state(source)
    stored = read_state(out)
    o = QuantizeOptions()
    seen = tokens_of_experts(source, out, plenty.calibration.rows(source, 0))
    starved = result.details["starved"]
    assert 0 < len(starved) < len(seen)
    for name, tokens in seen.items():
        weight = before[f"{name}.weight"].float()
        assert (name in starved) == (len(tokens) < MIN_TOKENS_PER_CHANNEL * weight.shape[1])
        assert starved.get(name, len(tokens)) == len(tokens)
        integers = Gptq().read(part_of(stored, name), SCHEME, name).integers
        if name in starved:
            assert torch.equal(integers, rtn(weight, SCHEME).integers)
        else:
            again = gptq(
                weight, tokens.T @ tokens, SCHEME, damp=o.damp, refine=o.refine
            ).packed.integers
            assert (again == integers).float().mean() > 0.95, (
                name
            )  # two ways to the same sums: a tie may fall either way


def test_experts_with_too_few_tokens_are_reported(made: Made) -> None:
    result = made[2]
    (note,) = (note for note in result.notes if "rounded to nearest, because" in note)
    starved = result.details["starved"]
    experts = {name.rpartition(".")[0] for name in starved}
    assert note.startswith(f"{len(starved)} linear layers of {len(experts)} experts")
    least = min(starved, key=lambda name: starved[name])
    assert f"{least.rpartition('.')[0]} {starved[least]}" in note


def test_an_expert_without_tokens(
    copy_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    source = copy_model("mixtral")
    state = read_state(source)
    for key in state:
        if key.endswith("block_sparse_moe.gate.weight"):
            state[key][0] = 0  # its logit is 0, and of two opposite ones one is above
            state[key][2] = -state[key][1]
            state[key][4] = -state[key][3]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    result = quantize(QuantizeOptions(group_size=32), source, tmp_path / "out", plenty)
    assert all(
        torch.isfinite(tensor).all()
        for tensor in load_model(tmp_path / "out").state_dict().values()
    )
    assert all(0 <= module["error"] < 1 for module in result.details["modules"].values())


def test_the_walk_ends_with_the_outputs_of_the_layer(made: Made, plenty: StepContext) -> None:
    """If no weight changes on the walk, the states at its end are the outputs of the layer."""
    source, _, _ = made
    model = InMemory(load_model(source), architecture(read_config(source)))
    rows = plenty.calibration.rows(source, 0)
    states, calls = first_inputs(model, rows)
    walk = LayerWalk(ActivationBuffer())
    with torch.no_grad():
        for layer, module, call in zip(model.architecture.layers, model.layers, calls, strict=True):
            expected = torch.cat([call(module, states[n]) for n in range(len(rows))])
            groups = [group for group, _ in walk.visit(module, layer, call, states)]
            torch.testing.assert_close(states[:], expected, rtol=1e-4, atol=1e-5)
            assert bool(walk.tokens) == any(
                ".experts." in name for group in groups for name in group
            )
            if walk.tokens:
                downs = [
                    tokens
                    for name, tokens in walk.tokens.items()
                    if name.endswith(("down_proj", "w2"))
                ]
                assert layer.experts
                assert sum(downs) == layer.experts.per_token * len(rows) * 32


def test_streamed_is_in_memory_bit_for_bit(
    made: Made, plenty: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    """The result does not depend on how many experts' Hessians are collected in one pass."""
    source = made[0]
    rows = plenty.calibration.rows(source, 0)
    options = QuantizeOptions(group_size=32)
    runs = []
    found = []
    for model, buffer, together in (
        (
            InMemory(load_model(source), architecture(read_config(source))),
            ActivationBuffer(),
            2**30,
        ),
        (Streamed(source), ActivationBuffer(0, tmp_path), 1),
    ):
        monkeypatch.setattr("edgewright.compress.calibration.expert_walk.HESSIAN_BYTES", together)
        runs.append(run := QuantizeSession(options))
        scaler = Scaler(run, torch.float32)
        found.append(list(sequential_layers(run, model, rows, buffer, scaler)))
    assert (runs[0].modules, runs[0].starved, runs[0].notes) == (
        runs[1].modules,
        runs[1].starved,
        runs[1].notes,
    )
    for expected, got in zip(*found, strict=True):
        assert expected.keys() == got.keys()
        for name in expected:
            assert all(
                torch.equal(vars(expected[name])[part], vars(got[name])[part])
                for part in ("integers", "scales", "zeros")
            )


def test_gptq_follows_the_mixture_closer_than_rounding(
    made: Made, plenty: StepContext, tmp_path: Path
) -> None:
    source, out, _ = made
    quantize(QuantizeOptions(method="rtn", group_size=32), source, tmp_path / "rtn", plenty)
    rows = plenty.calibration.rows(source, 0)

    def logits(folder: Path) -> Tensor:
        model = load_model(folder)
        with torch.no_grad():
            return torch.cat([model(input_ids=row[:1], use_cache=False).logits for row in rows])

    expected = logits(source).log_softmax(-1)
    ours, plain = (
        float((expected.exp() * (expected - logits(p).log_softmax(-1))).sum(-1).mean())
        for p in (out, tmp_path / "rtn")
    )
    assert ours < plain
