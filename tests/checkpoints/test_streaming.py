"""A model read from disk layer by layer computes, and is scored, as the loaded one is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from model_files import sharded
from safetensors.torch import save_file
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import InMemory, Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.layer_inputs import first_inputs
from edgewright.compress.quantize.one_pass import one_pass_layers
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.scaling import Scaler
from edgewright.compress.quantize.sequential import sequential_layers
from edgewright.compress.quantize.session import QuantizeSession
from edgewright.errors import UsageError
from edgewright.models import FAMILIES, architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def streamed_logits(model: Streamed, rows: list[Tensor]) -> Tensor:
    states, calls = first_inputs(model, rows)
    with torch.no_grad():
        for i, call in enumerate(calls):
            with model.held(i) as layer:
                states[:] = torch.cat([call(layer, states[n]) for n in range(len(rows))])
        return torch.cat(
            [torch.cat(list(model.logit_parts(states[n])), -1) for n in range(len(rows))]
        )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_logits(
    family: str, dtype: str, copy_model: MakeModel, context: StepContext
) -> None:
    folder = sharded(copy_model(family, dtype=dtype))
    rows = context.calibration.rows(folder, 0)[:2]
    whole = load_model(folder)
    model = Streamed(folder)
    with torch.no_grad():
        expected = torch.cat([whole(input_ids=row[:1], use_cache=False).logits for row in rows])
    assert torch.equal(streamed_logits(model, rows), expected)
    # The first pass has left no trace.
    assert torch.equal(streamed_logits(model, rows), expected)
    assert all(p.is_meta for layer in model.layers for p in layer.parameters())


def test_a_cap_on_the_logits(make_model: MakeModel, context: StepContext) -> None:
    folder = make_model("gemma3_text", final_logit_softcapping=2.0)
    rows = context.calibration.rows(folder, 0)[:1]
    with torch.no_grad():
        expected = load_model(folder)(input_ids=rows[0][:1]).logits
    assert expected.abs().max() < 2
    assert torch.equal(streamed_logits(Streamed(folder), rows), expected)


@pytest.mark.parametrize("method", ["gptq", "rtn"])
@pytest.mark.parametrize("family", DENSE)
def test_the_same_integers(
    family: str, method: Any, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = sharded(
        copy_model(
            family, num_hidden_layers=2, intermediate_size=256, dtype="bfloat16", layer_types=None
        )
    )
    rows = context.calibration.rows(folder, 0)
    options = QuantizeOptions(method=method, group_size=64)
    whole = InMemory(load_model(folder), architecture(read_config(folder)))
    runs = QuantizeSession(options), QuantizeSession(options)
    made = [
        list(
            sequential_layers(
                run,
                model,
                rows,
                buffer,
                Scaler(run, torch.bfloat16),
            )
        )
        for run, model, buffer in zip(
            runs,
            (whole, Streamed(folder)),
            (ActivationBuffer(), ActivationBuffer(0, tmp_path)),
            strict=True,
        )
    ]
    assert runs[0] == runs[1]
    assert [layer.keys() for layer in made[0]] == [layer.keys() for layer in made[1]]
    for expected, got in zip(*made, strict=True):
        for name in expected:
            assert all(
                torch.equal(vars(expected[name])[part], vars(got[name])[part])
                for part in ("integers", "scales", "zeros")
            )


@pytest.mark.parametrize(
    ("method", "family"), [("awq", "gemma3_text"), ("int8", "qwen2"), ("smoothquant", "llama")]
)
def test_one_pass_gives_the_same_integers(
    method: Any, family: str, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = sharded(
        copy_model(
            family, num_hidden_layers=2, intermediate_size=256, dtype="bfloat16", layer_types=None
        )
    )
    rows = context.calibration.rows(folder, 0)
    options = QuantizeOptions(method=method)
    runs = (QuantizeSession(options), QuantizeSession(options))
    made = []
    for run, model, buffer in zip(
        runs,
        (InMemory(load_model(folder), architecture(read_config(folder))), Streamed(folder)),
        (ActivationBuffer(), ActivationBuffer(0, tmp_path)),
        strict=True,
    ):
        made.append(
            list(
                one_pass_layers(
                    run,
                    model,
                    rows,
                    buffer,
                    Scaler(run, torch.bfloat16),
                )
            )
        )
    assert runs[0].modules == runs[1].modules
    for expected, got in zip(*made, strict=True):
        assert expected.keys() == got.keys()
        for name in expected:
            assert all(
                torch.equal(vars(expected[name])[part], vars(got[name])[part])
                for part in ("integers", "scales", "zeros")
            )
            assert expected[name].inputs == got[name].inputs


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
    with (
        pytest.raises(UsageError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*NaN"),
        Streamed(folder).held(1),
    ):
        pytest.fail("the block must not run")
