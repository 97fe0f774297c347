"""A model read from disk layer by layer computes, and is scored, as the loaded one is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoint import read_config, read_state
from edgewright.compress.activations import Room
from edgewright.compress.layerwise import first_inputs
from edgewright.compress.prune.importance import measure, measure_layers
from edgewright.errors import UsageError
from edgewright.loading import load_model
from edgewright.models import FAMILIES, family_of
from edgewright.steps import StepContext
from edgewright.streaming import Streamed

MakeModel = Callable[..., Path]


def sharded(folder: Path) -> Path:
    """The same checkpoint in three files, with a layer's tensors in more than one of them."""
    state = read_state(folder)
    (folder / "model.safetensors").unlink()
    names = {key: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, key in enumerate(state)}
    for file in set(names.values()):
        save_file({k: v for k, v in state.items() if names[k] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return folder


def streamed_logits(model: Streamed, rows: list[Tensor]) -> Tensor:
    states, calls = first_inputs(model, rows)
    with torch.no_grad():
        for i, call in enumerate(calls):
            with model.held(i) as layer:
                states[:] = torch.cat([call(layer, states[n]) for n in range(len(rows))])
        return torch.cat([torch.cat(list(model.logit_parts(states[n])), -1) for n in range(len(rows))])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_logits(family: str, dtype: str, copy_model: MakeModel, context: StepContext) -> None:
    folder = sharded(copy_model(family, dtype=dtype))
    rows = context.calibration.rows(folder, 0)[:2]
    whole, model = load_model(folder), Streamed(folder)
    with torch.no_grad():
        expected = torch.cat([whole(input_ids=row[:1], use_cache=False).logits for row in rows])
    assert torch.equal(streamed_logits(model, rows), expected)
    assert torch.equal(streamed_logits(model, rows), expected)  # what was held before has left no trace
    assert all(p.is_meta for layer in model.layers for p in layer.parameters())


def test_a_cap_on_the_logits(make_model: MakeModel, context: StepContext) -> None:
    folder = make_model("gemma3_text", final_logit_softcapping=2.0)
    rows = context.calibration.rows(folder, 0)[:1]
    with torch.no_grad():
        expected = load_model(folder)(input_ids=rows[0][:1]).logits
    assert expected.abs().max() < 2
    assert torch.equal(streamed_logits(Streamed(folder), rows), expected)


@pytest.mark.parametrize("criterion", ["activation", "norm", "magnitude", "random"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_scores(family: str, criterion: Any, copy_model: MakeModel, context: StepContext, tmp_path: Path) -> None:
    folder = sharded(copy_model(family, dtype="bfloat16"))
    shape, rows = family_of(read_config(folder)).shape(read_config(folder)), context.calibration.rows(folder, 0)
    expected = measure(load_model(folder), family_of(read_config(folder)), shape, rows, criterion, 3)
    for budget in (None, 2 * rows[0].shape[1] * 4 * 128, 0):
        got = measure_layers(Streamed(folder), shape, rows, criterion, 3, Room(budget, tmp_path))
        for name in ("heads", "neurons", "layers"):
            assert torch.equal(getattr(got, name), getattr(expected, name))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_recomputing_activations_changes_no_gradient(family: str, make_model: MakeModel, context: StepContext) -> None:
    folder = make_model(family)
    config, rows = read_config(folder), context.calibration.rows(folder, 0)
    kept, recomputed = (
        measure(load_model(folder), family_of(config), family_of(config).shape(config), rows, "taylor", recompute=recompute)
        for recompute in (False, True)
    )
    for name in ("heads", "neurons", "layers"):
        assert torch.equal(getattr(kept, name), getattr(recomputed, name))
        assert getattr(kept, name).min() > 0


def test_recomputing_keeps_one_layer_of_activations(make_model: MakeModel, context: StepContext) -> None:
    folder = make_model("llama", num_hidden_layers=6)
    config, rows = read_config(folder), context.calibration.rows(folder, 0)
    saved: dict[bool, int] = {}
    for recompute in (False, True):
        alive, most = 0, 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal alive, most
            alive += tensor.nbytes
            most = max(most, alive)
            return tensor

        def unpack(tensor: Tensor) -> Tensor:
            nonlocal alive
            alive -= tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            measure(load_model(folder), family_of(config), family_of(config).shape(config), rows[:1], "taylor", recompute=recompute)
        saved[recompute] = most
    assert saved[True] < saved[False] / 2


def test_weights_that_do_not_belong_to_the_config(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    state = read_state(folder)
    norm = state.pop("model.norm.weight")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"missing \['model.norm.weight'\]"):
        Streamed(folder)
    state |= {"model.norm.weight": norm, "adapter.weight": norm.clone()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"unexpected \['adapter.weight'\]"):
        Streamed(folder)
    del state["adapter.weight"]
    state["model.layers.1.mlp.up_proj.weight"] = torch.ones(3, 4)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match="do not fit"), Streamed(folder).held(1):
        pytest.fail("the block must not run")


def test_a_nan_is_named(copy_model: MakeModel) -> None:
    folder = copy_model("llama")
    state = read_state(folder)
    state["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*NaN"), Streamed(folder).held(1):
        pytest.fail("the block must not run")
