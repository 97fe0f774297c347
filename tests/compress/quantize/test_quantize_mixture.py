"""Mixtures of experts, quantized expert by expert: what is written, on which tokens it was calibrated, what is left alone or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import dequantize_gptq, part_of
from conftest import MIXTURES
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.files import read_config, read_state
from edgewright.checkpoints.layouts import Scheme
from edgewright.checkpoints.layouts.gptq import Gptq
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import InMemory, Streamed
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.layer_inputs import first_inputs
from edgewright.compress.calibration.layer_walk import LayerWalk
from edgewright.compress.quantize.gptq import gptq, rtn
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.rules import Rule
from edgewright.compress.quantize.runner import quantize
from edgewright.compress.quantize.scaling import Scaler
from edgewright.compress.quantize.sequential import MIN_TOKENS_PER_CHANNEL, sequential_layers
from edgewright.compress.quantize.session import QuantizeSession
from edgewright.errors import Refused
from edgewright.models import Layer, architecture
from edgewright.steps.context import CalibrationData, StepContext, StepResult

MakeModel = Callable[..., Path]
Made = tuple[Path, Path, StepResult]
PARTS = ("qweight", "qzeros", "scales", "g_idx")
SCHEME = Scheme(4, 32)


@pytest.fixture(scope="module")
def plenty(text_file: Path) -> StepContext:
    """Enough text for many experts of the tiny mixtures, and not for all."""
    return StepContext(CalibrationData(f"text:{text_file}", samples=6, seq_len=32))


@pytest.fixture(scope="module", params=MIXTURES)
def made(
    request: pytest.FixtureRequest,
    make_model: MakeModel,
    plenty: StepContext,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """A family's model, the same in 4 bits with groups of 32, and what the step told."""
    source, out = make_model(request.param), tmp_path_factory.mktemp("quantized") / request.param
    return source, out, quantize(QuantizeOptions(group_size=32, bf16=False), source, out, plenty)


def test_every_expert_is_packed_under_its_name_in_files(made: Made) -> None:
    source, out, _ = made
    before, stored, config = read_state(source), read_state(out), read_config(source)
    model = architecture(config)
    packed, loaded = model.linears(), model.stored(load_model(out).state_dict())
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
    """What each expert's projections are given in the finished model, [tokens, in], by stored name: from the model's own routing."""
    described, model, seen = (
        architecture(read_config(source)),
        load_model(finished),
        dict[str, list[Tensor]](),
    )

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


def test_each_expert_was_solved_on_its_own_tokens(made: Made, plenty: StepContext) -> None:
    """In the finished model all inputs come from finished layers, so that calibrating on those of an expert gives its integers."""
    source, out, result = made
    before, stored, o = read_state(source), read_state(out), QuantizeOptions()
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


def test_experts_that_saw_too_little_are_counted_and_told(made: Made) -> None:
    result = made[2]
    (note,) = (note for note in result.notes if "rounded to nearest, because" in note)
    starved = result.details["starved"]
    experts = {name.rpartition(".")[0] for name in starved}
    assert note.startswith(f"{len(starved)} linear layers of {len(experts)} experts")
    least = min(starved, key=lambda name: starved[name])
    assert f"{least.rpartition('.')[0]} {starved[least]}" in note


def test_an_expert_that_saw_nothing(
    copy_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    source = copy_model("mixtral")
    state = read_state(source)
    for key in state:
        if key.endswith("block_sparse_moe.gate.weight"):
            state[key][0] = 0  # its logit is 0, and of two opposite ones one is above
            state[key][2], state[key][4] = -state[key][1], -state[key][3]
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    result = quantize(QuantizeOptions(group_size=32), source, tmp_path / "out", plenty)
    assert all(
        torch.isfinite(tensor).all()
        for tensor in load_model(tmp_path / "out").state_dict().values()
    )
    assert all(0 <= module["error"] < 1 for module in result.details["modules"].values())


def test_the_stages_put_out_what_the_layer_does(made: Made, plenty: StepContext) -> None:
    """Nothing is changed on the way: what comes out is the layer's own output."""
    source, _, _ = made
    model, rows = (
        InMemory(load_model(source), architecture(read_config(source))),
        plenty.calibration.rows(source, 0),
    )
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
    """And however many experts' Hessians are gathered together."""
    source = made[0]
    rows, options = plenty.calibration.rows(source, 0), QuantizeOptions(group_size=32)
    runs, found = [], []
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


@pytest.mark.parametrize("family", MIXTURES)
def test_files_with_fused_experts(
    family: str, copy_model: MakeModel, plenty: StepContext, tmp_path: Path
) -> None:
    """As some are stored: the result is the same, under the same names."""
    plain, fused = copy_model(family), copy_model(family)
    of, few = (
        architecture(read_config(plain)),
        replace(plenty, calibration=replace(plenty.calibration, samples=1)),
    )
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
    stored, before = read_state(tmp_path / "a"), read_state(source)
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
    most, held = 0, Streamed.held

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
