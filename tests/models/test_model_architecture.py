"""The architecture object against stock transformers models and their files, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE, DENSE, MIXTURES
from conftest import FAMILIES as SETTINGS
from torch import nn

from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.errors import Refused
from edgewright.models import (
    Architecture,
    AttentionSizes,
    CutAxis,
    Fold,
    Layer,
    architecture,
    decoder_layers,
    has_module,
    inside_expert,
    weight_in,
    weight_of,
)

MakeModel = Callable[..., Path]
ALL = sorted(SETTINGS)


def tiny(family: str, **config: Any) -> Architecture:
    return architecture({"model_type": family, **BASE, **SETTINGS[family], **config})


# Names and sizes


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("bias", [False, True])
def test_linears_are_the_matrices_in_files(family: str, bias: bool, make_model: MakeModel) -> None:
    folder = make_model(family, attention_bias=bias)
    model = read_architecture(folder)
    state = read_state(folder)
    inside = f"{model.decoder_layers}."
    matrices = {
        key.removesuffix(".weight"): tuple(tensor.shape)
        for key, tensor in state.items()
        if key.startswith(inside) and tensor.ndim == 2
    }
    routers = {name: matrices.pop(name) for name in model.routers}
    assert model.linears() == matrices
    assert bool(routers) == (family in MIXTURES)
    biased = {
        layer.full(linear.name) for layer in model.layers for linear in layer.linears if linear.bias
    }
    assert biased == {key.removesuffix(".bias") for key in state if key.endswith(".bias")}


@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_those_of_the_files(family: str, tied: bool, make_model: MakeModel) -> None:
    folder = make_model(family, tie_word_embeddings=tied)
    model = read_architecture(folder)
    state = read_state(folder)
    assert model.parameters == sum(tensor.numel() for tensor in state.values())
    for layer in model.layers:
        own = (tensor for key, tensor in state.items() if key.startswith(f"{layer.name}."))
        assert layer.parameters == sum(tensor.numel() for tensor in own)
    tables = {f"{model.embedding}.weight", f"{model.head}.weight"}
    assert model.decoder_parameters == sum(
        tensor.numel() for key, tensor in state.items() if key not in tables
    )


@pytest.mark.parametrize("family", ALL)
def test_names_are_those_of_modules(family: str, make_model: MakeModel) -> None:
    folder = make_model(family)
    model = read_architecture(folder)
    stock = load_model(folder)
    for name in (model.embedding, model.head, model.rotary, model.final_norm.name):
        assert has_module(stock, name), name
    modules = decoder_layers(stock, model)
    for module, layer in zip(modules, model.layers, strict=True):
        assert module is stock.get_submodule(layer.name)
        names = [name for group in layer.input_groups for name in group]
        linears = {name for name, part in module.named_modules() if isinstance(part, nn.Linear)}
        assert linears - {*layer.routers} == set(names)
        for branch in layer.branches:
            assert has_module(module, branch.block.name)
            norms = [norm for norm in (branch.norm, branch.post_norm) if norm]
            assert all(has_module(module, norm.name) for norm in norms)
        norms = (layer.attention.q_norm, layer.attention.k_norm)
        assert [bool(norm) for norm in norms] == [
            has_module(module, f"self_attn.{part}_norm") for part in "qk"
        ]


@pytest.mark.parametrize("family", ALL)
def test_counts_add_up_to_the_linears(family: str) -> None:
    model = tiny(family)
    counts = model.linear_counts()
    assert sum(counts.values()) == len(model.linears())
    assert model.linear_weights() == sum(n * k for n, k in model.linears().values())
    assert list(model.linear_counts(10**6).values()) == pytest.approx(list(counts.values()))
    one = model.linear_weights(1)
    assert (one < model.linear_weights()) == (family in MIXTURES)
    if model.experts:
        each = model.experts.per_token / model.experts.count
        idle = (1 - each) * len(model.expert_layers) * model.experts.count
        assert model.linear_weights() - one == pytest.approx(
            idle * sum(linear.weights for linear in model.experts.expert("*").linears)
        )


# What blocks say of themselves


@pytest.mark.parametrize("family", ALL)
def test_input_groups_read_one_input(family: str, make_model: MakeModel) -> None:
    folder = make_model(family)
    model = read_architecture(folder)
    stock = load_model(folder)
    seen: dict[str, torch.Tensor] = {}
    for module, layer in zip(decoder_layers(stock, model), model.layers, strict=True):
        for name in (name for group in layer.input_groups for name in group):
            key = layer.full(name)
            module.get_submodule(name).register_forward_pre_hook(
                lambda _module, args, key=key: seen.update({key: args[0]})
            )
    with torch.no_grad():
        stock(input_ids=torch.arange(12).unsqueeze(0))
    order = list(seen)
    for layer in model.layers:
        for group in layer.input_groups:
            inputs = [seen[layer.full(name)] for name in group]
            assert all(x is inputs[0] for x in inputs)
    wanted = [layer.full(name) for layer in model.layers for g in layer.input_groups for name in g]
    assert order == wanted


@pytest.mark.parametrize("family", DENSE)
def test_folds_name_what_is_before_each_group(family: str) -> None:
    layer = tiny(family).layers[0]
    offset = 1.0 if family == "gemma3_text" else 0.0
    qkv, o, gate_up, down = layer.input_groups
    assert layer.folds == (
        Fold(qkv, layer.mixer_norm.name, norm=True, offset=offset),
        Fold(o, "self_attn.v_proj", norm=False, repeat=4, head_dim=64),
        Fold(gate_up, layer.ffn_norm.name, norm=True, offset=offset),
        Fold(down, "mlp.up_proj", norm=False),
    )
    assert layer.depth == 4


def test_nothing_is_folded_into_the_norm_before_a_router() -> None:
    for layer in tiny("qwen2_moe").layers:
        assert len(layer.folds) == (2 if layer.experts else 4)
        assert layer.depth == 4


def test_cut_axes_are_whole_units() -> None:
    layer = tiny("llama").layers[1]
    assert layer.cut_axes == (
        CutAxis("self_attn.q_proj", "heads", 0, 64),
        CutAxis("self_attn.k_proj", "kv_heads", 0, 64),
        CutAxis("self_attn.v_proj", "kv_heads", 0, 64),
        CutAxis("self_attn.o_proj", "heads", 1, 64),
        CutAxis("mlp.gate_proj", "neurons", 0),
        CutAxis("mlp.up_proj", "neurons", 0),
        CutAxis("mlp.down_proj", "neurons", 1),
    )
    assert layer.outputs == ("self_attn.o_proj", "mlp.down_proj")
    routed = tiny("mixtral").layers[0]
    assert {axis.unit for axis in routed.cut_axes} == {"heads", "kv_heads"}
    assert routed.outputs == ("self_attn.o_proj",)


def test_a_cache_holds_what_a_window_leaves() -> None:
    gemma = tiny("gemma3_text")  # windows of 16 in two of three layers
    llama = tiny("llama")
    each = 2 * 2 * 64
    assert llama.state_elements(100) == 3 * 100 * each
    assert gemma.state_elements(100) == (16 + 100 + 16) * each
    assert gemma.state_elements(10) == 3 * 10 * each
    assert gemma.state_bytes(100, 3, element_bytes=4) == 12 * gemma.state_elements(100)
    assert llama.decode_macs(100) == 3 * 2 * 8 * 64 * 100  # scores and values, of every query head
    assert gemma.decode_macs(100) == 2 * 8 * 64 * (16 + 100 + 16)
    pairs = 100 * 100 - 100**2 // 2
    assert llama.prefill_macs(100) == 3 * 2 * 8 * 64 * pairs


# Layers that differ


def test_layers_that_differ_have_no_common_sizes() -> None:
    model = tiny("llama")
    assert model.attention_sizes == AttentionSizes(8, 2, 64)
    layers = (model.layers[0], tiny("llama", num_attention_heads=4).layers[1])
    mixed = Architecture(**{**_fields(model), "layers": layers})
    with pytest.raises(Refused, match="differ in attention"):
        mixed.attention_sizes  # noqa: B018
    assert mixed.parameters == model.vocab_size * 128 * 2 + 128 + sum(
        layer.parameters for layer in layers
    )
    assert mixed.state_elements(10) == 2 * 10 * 2 * 2 * 64
    assert {linear.shape for linear in mixed.linear_counts() if "q_proj" in linear.name} == {
        (512, 128),
        (256, 128),
    }


def _fields(model: Architecture) -> dict[str, Any]:
    return {name: value for name, value in vars(model).items() if name in model.__match_args__}


# Tensors of experts


@pytest.mark.parametrize("family", ALL)
def test_stored_and_loaded_are_inverse(family: str, make_model: MakeModel) -> None:
    folder = make_model(family)
    model = read_architecture(folder)
    stock = load_model(folder)
    state = read_state(folder)
    tied = set(stock._tied_weights_keys or ()) if model.tied else set()
    memory = {key: tensor for key, tensor in stock.state_dict().items() if key not in tied}
    stored = model.stored(memory)
    assert stored.keys() == state.keys()
    assert all(torch.equal(stored[key], state[key]) for key in state)
    loaded = model.loaded(state)
    assert loaded.keys() == memory.keys()
    assert all(torch.equal(loaded[key], memory[key]) for key in memory)
    layer = model.layers[-1]
    own = {key.removeprefix(f"{layer.name}."): tensor for key, tensor in memory.items()}
    own = {key: tensor for key, tensor in own.items() if key not in memory}
    assert model.loaded(model.stored(own)).keys() == own.keys()


@pytest.mark.parametrize("family", MIXTURES)
def test_weights_of_experts_are_parts_of_fused_tensors(family: str, make_model: MakeModel) -> None:
    folder = make_model(family)
    model = read_architecture(folder)
    stock = load_model(folder)
    state = read_state(folder)
    for module, layer in zip(decoder_layers(stock, model), model.layers, strict=True):
        for linear in layer.linears:
            weight = weight_in(module, layer, linear.name)
            assert torch.equal(weight, state[layer.key(linear.name)])
        if layer.experts is None:
            with pytest.raises(ValueError, match="no experts"):
                inside_expert(module, layer, 0, torch.zeros(1, 128))
            continue
        assert_inside(module, layer)
        last = layer.experts.expert(1).down.name
        weight_in(module, layer, last).zero_()
        assert not weight_in(module, layer, last).any()
    assert weight_of(stock.get_submodule(model.layers[0].full("self_attn.q_proj"))).shape == (
        512,
        128,
    )


def assert_inside(module: nn.Module, layer: Layer) -> None:
    """What enters a down projection gives, times it, what the expert puts out."""
    assert layer.experts
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(0))
    pool = module.get_submodule(layer.experts.pool)
    chosen = torch.full((5, 1), 2)
    gates = torch.ones(5, 1)
    with torch.no_grad():
        expected = pool(x, chosen, gates)
        down = weight_in(module, layer, layer.experts.expert(2).down.name)
        got = inside_expert(module, layer, 2, x) @ down.T
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
