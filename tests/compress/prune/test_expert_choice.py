"""Which experts of a mixture stay: importance, load balance, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from prune_helpers import MIXTURE_NAMES, plain, stock_model
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.experts import ExpertUsage, balance, choose_experts
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.schedule import spread
from edgewright.compress.prune.sizes import sizes_after
from edgewright.errors import Refused
from edgewright.models import architecture
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]


def router_of(family: str, layer: int) -> str:
    return f"model.layers.{layer}.{MIXTURE_NAMES.get(family, ('mlp',))[0]}.gate.weight"


@pytest.mark.parametrize("family", MIXTURES)
def test_finds_the_expert_that_adds_nothing(
    family: str, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Expert 5 is used, but its output is zero. Expert 3 is never used."""
    source = copy_model(family)
    state, layer = read_state(source), 3 if family == "qwen3_moe" else 2
    mlp, *_, down = MIXTURE_NAMES.get(family, ("mlp", "gate_proj", "up_proj", "down_proj"))
    state[f"model.layers.{layer}.{mlp}.experts.5.{down}.weight"].zero_()
    # No input of the router points far away from the mean, so none is routed to expert 3.
    mean = stock_mean(source, layer, context)
    state[router_of(family, layer)][3] = -100 * mean / mean.norm() ** 2
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    result = prune(plain(experts=0.25), source, tmp_path / "out", context)
    (entry,) = (e for e in result.details["experts"] if e["layer"] == layer)
    assert {3, 5} <= set(entry["removed"])
    assert entry["importance"][5] == 0
    for found in result.details["experts"]:
        worst = sorted(range(len(found["importance"])), key=lambda i: found["importance"][i])
        assert found["removed"] == sorted(worst[: len(found["removed"])])
    provenance = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert provenance["kept_experts"][layer] == [
        i for i in range(len(entry["importance"])) if i not in entry["removed"]
    ]


def stock_mean(source: Path, layer: int, context: StepContext) -> Tensor:
    """The mean input of a layer's experts."""
    seen: list[Tensor] = []
    model = stock_model(source)
    model.model.layers[layer].mlp.register_forward_pre_hook(
        lambda _m, args: seen.append(args[0].flatten(0, -2))
    )
    with torch.no_grad():
        for row in context.calibration.rows(source, context.seed):
            model(input_ids=row[:1], use_cache=False)
    return torch.cat(seen).mean(0)


@pytest.mark.parametrize("family", MIXTURES)
def test_importance_and_balance_are_those_of_the_definition(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Computed expert by expert from the choices of the stock router."""
    source = make_model(family)
    result = prune(plain(experts=0.25), source, tmp_path / "out", context)
    for folder, when in ((source, "before"), (tmp_path / "out", "after")):
        model, config, state = stock_model(folder), read_config(folder), read_state(folder)
        seen: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {
            entry["layer"]: [] for entry in result.details["experts"]
        }
        for layer, calls in seen.items():
            experts = model.model.layers[layer].mlp.experts
            experts.register_forward_pre_hook(lambda _m, args, calls=calls: calls.append(args))
        rows = context.calibration.rows(source, context.seed)
        with torch.no_grad():
            for row in rows:
                model(input_ids=row[:1], use_cache=False)
        for entry in result.details["experts"]:
            counts, sums = tally(config, state, entry["layer"], seen[entry["layer"]])
            shares = [n / sum(counts) for n in counts]
            entropy = -sum(s * math.log(s) for s in shares if s) / math.log(len(shares))
            expected = {
                "entropy": entropy,
                "busiest": max(shares) * len(shares),
                "unused": counts.count(0),
            }
            if when == "before":
                tokens = sum(row.shape[1] for row in rows)
                assert entry["importance"] == pytest.approx(
                    [s / n * (n / tokens) if n else 0 for s, n in zip(sums, counts, strict=True)],
                    rel=1e-3,
                )
                assert entry["removed_share"] == pytest.approx(
                    sum(shares[i] for i in entry["removed"])
                )
                assert entry[when] == pytest.approx(expected)
            else:  # rounding may decide a near tie differently in the cut model
                assert entry[when] == pytest.approx(expected, abs=0.05)


def tally(
    config: dict[str, Any], state: dict[str, Tensor], layer: int, calls: list[Any]
) -> tuple[list[int], list[float]]:
    """Tokens of each expert, and the sum of the norms of its gated outputs."""
    mlp, gate, up, down = MIXTURE_NAMES.get(
        config["model_type"], ("mlp", "gate_proj", "up_proj", "down_proj")
    )
    count = config.get("num_local_experts") or config["num_experts"]
    counts, sums = [0] * count, [0.0] * count
    for hidden, chosen, gates in calls:
        for token in range(len(hidden)):
            for expert, weight in zip(chosen[token].tolist(), gates[token].tolist(), strict=True):
                part = {
                    p: state[f"model.layers.{layer}.{mlp}.experts.{expert}.{p}.weight"]
                    for p in (gate, up, down)
                }
                added = part[down] @ (
                    F.silu(part[gate] @ hidden[token]) * (part[up] @ hidden[token])
                )
                counts[expert] += 1
                sums[expert] += weight * float(added.norm())
    return counts, sums


def test_balance() -> None:
    assert balance(torch.tensor([5.0, 5, 5, 5])) == pytest.approx(
        {"entropy": 1, "busiest": 1, "unused": 0}
    )
    assert balance(torch.tensor([0.0, 8, 0, 0])) == pytest.approx(
        {"entropy": 0, "busiest": 4, "unused": 3}
    )
    halves = balance(torch.tensor([2.0, 2, 0, 0]))
    assert halves == pytest.approx({"entropy": 0.5, "busiest": 2, "unused": 2})
    assert balance(torch.tensor([3.0])) == pytest.approx({"entropy": 1, "busiest": 1, "unused": 0})
    assert balance(torch.zeros(2)) == pytest.approx({"entropy": 0, "busiest": 0, "unused": 2})


def test_choose_experts_leaves_dense_layers_alone() -> None:
    usage = {
        1: ExpertUsage(torch.tensor([1.0, 1, 1, 1]), torch.tensor([4.0, 1, 3, 3]), 4),
        2: ExpertUsage(torch.ones(4), torch.ones(4), 4),
    }
    assert choose_experts(usage, 4, 2) == [
        [],
        [0, 2],
        [0, 1],
        [],
    ]  # of equal experts the first ones


def test_random_is_a_choice_of_its_own(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    removed: list[list[list[int]]] = []
    for seed, criterion in enumerate(("taylor", "random", "random", "random")):
        seeded = replace(context, seed=max(seed, 2))  # the first two have the same seed
        result = prune(
            plain(experts=0.5, criterion=criterion), make_model("mixtral"), tmp_path / "out", seeded
        )
        removed.append([entry["removed"] for entry in result.details["experts"]])
    assert removed[1] == removed[2]
    assert removed[0] != removed[1] != removed[3]
    assert all(len(layer) == 4 for choice in removed for layer in choice)


def test_experts_go_round_by_round(make_model: MakeModel) -> None:
    left, found = architecture(read_config(make_model("qwen3_moe"))), []
    for cut in spread(PruneOptions(experts=0.5, heads=0.5), left, 3):
        sizes = sizes_after(cut, left)
        left = left.resized(**sizes, layers=range(4))
        found.append((sizes["experts"], sizes["heads"]))
    assert found == [(10, 6), (8, 6), (6, 4)]


def test_a_dense_model_has_no_experts_to_remove(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    sources = {
        "qwen2": make_model("qwen2"),
        "qwen3_moe": make_model("qwen3_moe", mlp_only_layers=[0, 1, 2, 3]),
    }
    for source in sources.values():
        with pytest.raises(Refused, match="the model is dense") as caught:
            prune(PruneOptions(experts=0.25), source, tmp_path / "out", context)
        assert "--ffn" in caught.value.hint
    # The second model is dense in all its layers.
    result = prune(plain(ffn=0.5), sources["qwen3_moe"], tmp_path / "ffn", context)
    assert read_config(tmp_path / "ffn")["intermediate_size"] == 256
    assert "experts" not in result.details


@pytest.mark.parametrize("family", MIXTURES)
def test_neurons_of_a_mixture_are_refused(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="FFN neurons of a mixture") as caught:
        prune(PruneOptions(ffn=0.25), make_model(family), tmp_path / "out", context)
    assert "--experts" in caught.value.hint
    assert not (tmp_path / "out").exists()
