"""A walk through a layer gives the same Hessians and outputs as running the whole layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from torch import Tensor

from edgewright.checkpoints.streaming import Streamed
from edgewright.compress.calibration import layer_inputs as layerwise
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.calibration.layer_inputs import advance, first_inputs, input_hessian
from edgewright.compress.calibration.layer_walk import LayerWalk
from edgewright.models import Layer, weight_of
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def walk(
    source: Path,
    context: StepContext,
    change: Callable[[Tensor], Tensor],
    by_walk: bool,
    buffer: ActivationBuffer,
) -> tuple[list[Tensor], Tensor]:
    """The Hessians of a walk that changes each group after its visit, and the states at the end."""
    model = Streamed(source)
    hessians = list[Tensor]()
    states, calls = first_inputs(model, context.calibration.rows(source, 0))
    layer_walk = LayerWalk(buffer)

    def plain(module: Any, layer: Layer, call: Any) -> Any:
        for group in layer.input_groups:
            yield group, input_hessian(module, module.get_submodule(group[0]), states, call)
        advance(module, states, call)

    for layer, call in zip(model.architecture.layers, calls, strict=True):
        with model.held(layer.index) as module, torch.no_grad():
            walk_groups = layer_walk.visit(module, layer, call, states)
            for group, hessian in walk_groups if by_walk else plain(module, layer, call):
                hessians.append(hessian)
                for name in group:
                    weight = weight_of(module.get_submodule(name))
                    weight.copy_(change(weight))
    return hessians, states[: len(states)]


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("budget", [None, 4096])
def test_a_walk_sees_the_inputs_of_the_layer(
    family: str, budget: int | None, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family)

    def coarse(weight: Tensor) -> Tensor:
        return (weight * 16).round() / 16

    ours, ended = walk(source, context, coarse, True, ActivationBuffer(budget, tmp_path))
    expected, wanted = walk(source, context, coarse, False, ActivationBuffer())
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.diagonal().max()))
    torch.testing.assert_close(ended, wanted, rtol=1e-4, atol=1e-5)
    unchanged, _ = walk(source, context, lambda weight: weight, False, ActivationBuffer())
    assert not torch.allclose(ended, _, rtol=1e-3)  # the change is one that shows
    assert torch.equal(unchanged[0], expected[0])


def test_only_a_mask_that_hides_the_future_alone_is_left_to_the_kernel() -> None:
    whole = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    causal = whole.tril()
    assert layerwise._only_causal(causal)
    assert not layerwise._only_causal(causal & whole.triu(-3)), "a window shorter than the rows"
    assert not layerwise._only_causal(whole)
    assert not layerwise._only_causal(
        torch.zeros(1, 1, 8, 8).masked_fill(~causal, float("-inf"))
    ), "eager attention adds it"
    assert not layerwise._only_causal(None)


def test_a_gram_matrix_of_some_tokens_is_a_share_of_the_whole(
    make_model: MakeModel, context: StepContext
) -> None:
    """The mean number of tokens is as requested, and every walk draws the same tokens."""
    source = make_model("llama")
    model = Streamed(source)
    rows = context.calibration.rows(source, 0)
    found: dict[int | None, list[Tensor]] = {}
    for tokens in (None, 1, 10**6):
        states, calls = first_inputs(model, rows)
        layer_walk = LayerWalk(ActivationBuffer(), tokens=tokens)
        layer = model.architecture.layers[0]
        with model.held(0) as module, torch.no_grad():
            found[tokens] = [
                hessian for _, hessian in layer_walk.visit(module, layer, calls[0], states)
            ]
    total = len(rows) * rows[0].shape[1]
    for whole, some, more in zip(found[None], found[1], found[10**6], strict=True):
        assert torch.equal(whole, more)
        wanted = min(1.0, len(whole) / total)
        assert float(some.trace() / whole.trace()) == pytest.approx(wanted, rel=0.25)
