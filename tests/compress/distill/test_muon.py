"""Muon: its arithmetic is torch's, for the right parameters, in a type that the processor has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgewright.checkpoints.compute_dtype import bf16_is_fast
from edgewright.checkpoints.loading import load_model
from edgewright.compress.distill import prepared_objective, trainer
from edgewright.compress.distill.muon import JORDAN, MINIMAX, Muon, orthogonalize
from edgewright.compress.distill.objectives import HiddenAlignment
from edgewright.compress.distill.optimizers import TrainConfig, optimizers_of

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("shape", [(48, 96), (96, 48), (64, 64)])
def test_same_steps_as_torch(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = Muon([ours], lr=0.1, weight_decay=0.1, dtype=torch.bfloat16, quintics=JORDAN)
    two = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    assert float((ours - theirs).norm().detach() / (ours - start).norm().detach()) < 0.01


@pytest.mark.parametrize("quintics", [JORDAN, MINIMAX])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_orthogonal_up_to_the_iteration(shape: tuple[int, int], quintics: Any) -> None:
    torch.manual_seed(1)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape), quintics))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.28
    assert bool(torch.isfinite(orthogonalize(torch.zeros(shape), quintics)).all())


def test_three_iterations_reach_further_than_three_of_the_usual() -> None:
    """Singular values down to 1/100 of the norm end near 1; the usual quintic needs five."""
    torch.manual_seed(2)
    u, _ = torch.linalg.qr(torch.randn(64, 64))
    v, _ = torch.linalg.qr(torch.randn(64, 64))
    sizes = torch.cat([torch.tensor([1.0]), torch.logspace(-2, -1, 63)])
    matrix = u @ torch.diag(sizes) @ v
    ours, usual = (torch.linalg.svdvals(orthogonalize(matrix, q)) for q in (MINIMAX, JORDAN[:3]))
    assert float(ours.min()) > 1.5 * float(usual.min())


def test_a_parameter_without_gradient_stays() -> None:
    idle, used = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    used.grad = torch.eye(4)
    Muon([idle, used], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(idle, torch.ones(4, 4))
    assert not torch.equal(used, torch.ones(4, 4))


@pytest.mark.parametrize("tied", [True, False])
def test_which_parameters_each_optimizer_gets(tied: bool, make_model: MakeModel) -> None:
    """Muon: matrices of layers, projections. AdamW: embedding, head, norms, biases. Each once."""
    model = load_model(make_model("qwen2", tie_word_embeddings=tied)).requires_grad_()
    wide = load_model(make_model("qwen2", hidden_size=256))
    objective = HiddenAlignment(model, wide)
    adamw, muon = optimizers_of(objective, TrainConfig(1, 1e-3, optimizer="muon"))
    names = {id(p): name for name, p in objective.named_parameters()}
    given = [
        {names[id(p)] for group in o.param_groups for p in group["params"]} for o in (adamw, muon)
    ]
    assert given[0] | given[1] == set(names.values())
    assert not given[0] & given[1]
    assert {n for n in given[1] if "proj" not in n} == set()
    assert any(n.startswith("projections.") for n in given[1])
    assert any("embed_tokens" in n for n in given[0])
    assert any("lm_head" in n for n in given[0]) is not tied
    (only,) = optimizers_of(objective, TrainConfig(1, 1e-3))
    assert sum(len(group["params"]) for group in only.param_groups) == len(names)


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True}, True),
        ({"avx512_f": True}, False),
        ({}, False),
    ],
)
def test_half_precision_only_where_the_processor_has_it(
    capabilities: dict[str, Any], fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert bf16_is_fast("cpu") is fast
    made: list[str] = []

    class Spy(prepared_objective.Accelerator):
        def __init__(self, **settings: Any) -> None:
            made.append(settings["mixed_precision"])
            super().__init__(**settings)

    monkeypatch.setattr(prepared_objective, "Accelerator", Spy)

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

        def forward(self, ids: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
            return (ids.float() @ self.weight).pow(2).mean()

    rows = [torch.ones(2, 3, dtype=torch.long)] * 40
    losses = trainer.train(Square(), rows, TrainConfig(20, 0.1, 2, optimizer="muon"))
    assert losses[-1] < losses[0]
    assert made == ["bf16" if fast else "no"]
