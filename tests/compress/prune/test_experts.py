"""Mixtures of experts: what is cut computes what the whole model computes with the removed parts out of reach, reckoned by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from known_models import SMALL as A_DENSE
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.files import read_config, read_state
from edgewright.compress.prune.counts import kept_experts
from edgewright.compress.prune.experts import ExpertUsage, balance, choose_experts
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.schedule import spread
from edgewright.compress.prune.sizes import sizes_after
from edgewright.compress.prune.verify import probe_of, verify_with_stock
from edgewright.errors import EdgewrightError, Refused, UsageError
from edgewright.models import ExpertsFFN, architecture
from edgewright.steps.context import StepContext, StepResult

MakeModel = Callable[..., Path]
CUTS: dict[str, dict[str, Any]] = {
    "experts": {"experts": 0.25},
    "heads": {"heads": 0.5},
    "layers": {"layers": 1},
    "all": {"experts": 0.5, "heads": 0.25, "layers": 1},
}
IDS = torch.arange(1, 41).view(1, -1) * 7 % 500
NAMES = {"mixtral": ("block_sparse_moe", "w1", "w3", "w2")}


def plain(**options: Any) -> PruneOptions:
    return PruneOptions(compensate=False, **options)


def stock_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def by_hand(
    state: dict[str, Tensor], config: dict[str, Any], layer: int, stay: list[int], x: Tensor
) -> Tensor:
    """A layer of experts, token by token and expert by expert, from the tensors of the file; only `stay` can be routed to."""
    mlp, *parts = NAMES.get(config["model_type"], ("mlp", "gate_proj", "up_proj", "down_proj"))
    start = f"model.layers.{layer}.{mlp}"

    def ffn(prefix: str, token: Tensor) -> Tensor:
        gate, up, down = (state[f"{prefix}.{part}.weight"].float() for part in parts)
        return down @ (F.silu(gate @ token) * (up @ token))

    rows = []
    for token in x.flatten(0, -2):
        logits = state[f"{start}.gate.weight"].float() @ token
        odds = logits[stay].exp() / logits[stay].exp().sum()
        top = sorted(range(len(stay)), key=lambda i: -float(odds[i]))[
            : config["num_experts_per_tok"]
        ]
        total = (
            sum(float(odds[i]) for i in top)
            if config["model_type"] == "mixtral" or config["norm_topk_prob"]
            else 1.0
        )
        row = sum(
            (odds[i] / total * ffn(f"{start}.experts.{stay[i]}", token) for i in top),
            torch.zeros_like(token),
        )
        if f"{start}.shared_expert_gate.weight" in state:
            row += torch.sigmoid(
                state[f"{start}.shared_expert_gate.weight"][0].float() @ token
            ) * ffn(f"{start}.shared_expert", token)
        rows.append(row)
    return torch.stack(rows).view_as(x)


def silenced_logits(source: Path, result: StepResult, ids: Tensor = IDS) -> Tensor:
    """Logits of the whole model with removed heads and layers silenced, and its experts computed by hand."""
    model, config, state = stock_model(source), read_config(source), read_state(source)
    removed = {entry["layer"]: entry["removed"] for entry in result.details["experts"]}
    count = config.get("num_local_experts") or config["num_experts"]
    for i, layer in enumerate(model.model.layers):
        if i not in result.details["kept_layers"]:
            layer.forward = lambda hidden, *_args, **_kwargs: hidden
            continue
        with torch.no_grad():
            for head in result.details["pruned_heads"][i]:
                layer.self_attn.o_proj.weight[:, head * 64 : head * 64 + 64] = 0
        if i in removed:
            layer.mlp.forward = partial(
                by_hand, state, config, i, sorted(set(range(count)) - set(removed[i]))
            )
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def difference(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", MIXTURES)
def test_a_cut_mixture_is_the_silenced_one(
    family: str, cut: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source, out = make_model(family), tmp_path / "out"
    result = prune(plain(**CUTS[cut]), source, out, context)
    model = stock_model(out)
    with torch.no_grad():
        got = model(input_ids=IDS, use_cache=False).logits
    assert difference(got, silenced_logits(source, result)) < 1e-4
    assert result.details["max_relative_difference"] < 1e-4
    with torch.no_grad():
        assert (
            difference(got, stock_model(source)(input_ids=IDS, use_cache=False).logits) > 1e-2
        )  # something did change
    before, after = read_config(source), read_config(out)
    assert (
        architecture(after).parameters
        == model.num_parameters()
        == sum(t.numel() for t in read_state(out).values())
    )
    models = [architecture(config) for config in (before, after)]
    counts = [model.experts for model in models]
    assert counts[0] and counts[1]
    assert counts[1].count == counts[0].count * (1 - CUTS[cut].get("experts", 0))
    assert counts[1].per_token == counts[0].per_token
    assert after["num_hidden_layers"] == before["num_hidden_layers"] - CUTS[cut].get("layers", 0)
    kept = result.details["kept_layers"]
    assert [kept[i] for i in models[1].expert_layers] == [
        i for i in models[0].expert_layers if i in kept
    ]
    assert (after["num_attention_heads"], after["num_key_value_heads"]) == (
        {"heads": 4, "all": 6}.get(cut, 8),
        2,
    )


@pytest.mark.parametrize("family", MIXTURES)
def test_half_precision_and_a_refit(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """The refit moves o_proj (and down_proj of dense layers); experts and routers stay as they were."""
    source = make_model(family, dtype="bfloat16", seed=3)
    cut = {"experts": 0.25, "heads": 0.5}
    prune(plain(**cut), source, tmp_path / "plain", context)
    result = prune(PruneOptions(**cut), source, tmp_path / "out", context)
    assert result.details["max_relative_difference"] < 1e-4
    before, after = read_state(tmp_path / "plain"), read_state(tmp_path / "out")
    changed = {key.split(".", 3)[3] for key in after if not torch.equal(before[key], after[key])}
    assert (
        {"self_attn.o_proj.weight"}
        <= changed
        <= {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
    )
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}


@pytest.mark.parametrize("family", MIXTURES)
def test_loads_and_generates_without_edgewright(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family)
    result = prune(plain(**CUTS["all"]), source, tmp_path / "out", context)
    code = (
        "import json, sys, torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model, report = AutoModelForCausalLM.from_pretrained('out', dtype='float32', output_loading_info=True)\n"
        "tokenizer = AutoTokenizer.from_pretrained('out')\n"
        "ids = tokenizer('Seven boats', return_tensors='pt').input_ids\n"
        "made = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)\n"
        f"logits = model(input_ids=torch.tensor({IDS.tolist()})).logits\n"
        "odd = [str(report[k]) for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys') if report[k]]\n"
        "print(json.dumps([made.shape[1] - ids.shape[1], logits[0].tolist(), odd, 'edgewright' in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    new, logits, odd, ours = json.loads(done.stdout.splitlines()[-1])
    assert (new, odd, ours) == (8, [], False)
    assert difference(torch.tensor([logits]), silenced_logits(source, result)) < 1e-4


def test_files_with_fused_experts_are_cut_as_well(
    copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Some tools save what transformers has in memory; transformers reads both."""
    for family in MIXTURES:
        apart, fused = copy_model(family), copy_model(family)
        save_file(
            dict(stock_model(fused).state_dict()),
            fused / "model.safetensors",
            metadata={"format": "pt"},
        )
        assert (
            "model.layers.2.mlp.experts.down_proj" in load_file(fused / "model.safetensors")
            or family == "qwen3_moe"
        )
        made = []
        for folder in (apart, fused):
            prune(plain(experts=0.5, heads=0.5), folder, tmp_path / f"{folder.name}-out", context)
            made.append(read_state(tmp_path / f"{folder.name}-out"))
        assert made[0].keys() == made[1].keys()
        assert all(torch.equal(made[0][key], made[1][key]) for key in made[0])


def test_one_row_that_agrees_is_proof_and_no_row_is_none(
    make_model: MakeModel, context: StepContext
) -> None:
    """A tie between two experts may go the other way in the cut model and spoil a row; a wrong cut spoils all."""
    source = make_model("qwen3_moe")
    config, rows = read_config(source), context.calibration.rows(source, 0)
    model, probe = stock_model(source), probe_of(rows, architecture(config))
    assert probe.shape == (4, 32)
    assert probe_of(rows, A_DENSE).shape == (1, 32)
    with torch.no_grad():
        expected = model(input_ids=probe, use_cache=False).logits
    assert verify_with_stock(source, probe, torch.cat([expected[:3] + 1, expected[3:]])) < 1e-6
    for wrong in (1.0, math.nan):
        with pytest.raises(EdgewrightError, match="differs from the masked original"):
            verify_with_stock(source, probe, expected + wrong)
    assert (
        verify_with_stock(source, probe, torch.cat([expected[:1], expected[1:] * math.nan])) < 1e-6
    )


# Which experts go


def router_of(family: str, layer: int) -> str:
    return f"model.layers.{layer}.{NAMES.get(family, ('mlp',))[0]}.gate.weight"


@pytest.mark.parametrize("family", MIXTURES)
def test_finds_the_expert_that_adds_nothing(
    family: str, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """One that is as popular as another but puts out zero, and one that speaks up but that nobody is sent to."""
    source = copy_model(family)
    state, layer = read_state(source), 3 if family == "qwen3_moe" else 2
    mlp, *_, down = NAMES.get(family, ("mlp", "gate_proj", "up_proj", "down_proj"))
    state[f"model.layers.{layer}.{mlp}.experts.5.{down}.weight"].zero_()
    mean = stock_mean(
        source, layer, context
    )  # the router's input never points against its own mean by far
    state[router_of(family, layer)][3] = -100 * mean / mean.norm() ** 2
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    result = prune(plain(experts=0.25), source, tmp_path / "out", context)
    (entry,) = (e for e in result.details["experts"] if e["layer"] == layer)
    assert {3, 5} <= set(entry["removed"])
    assert entry["importance"][5] == 0
    for found in result.details["experts"]:
        worst = sorted(range(len(found["importance"])), key=lambda i: found["importance"][i])
        assert found["removed"] == sorted(worst[: len(found["removed"])])
    told = json.loads((tmp_path / "out" / "edgewright.json").read_text())
    assert told["kept_experts"][layer] == [
        i for i in range(len(entry["importance"])) if i not in entry["removed"]
    ]


def stock_mean(source: Path, layer: int, context: StepContext) -> Tensor:
    """The mean of what enters a layer's experts."""
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
    """Reckoned expert by expert from what the stock router chose: share of tokens times mean norm, and shares of choices."""
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
            else:  # a near tie may go the other way in the cut model
                assert entry[when] == pytest.approx(expected, abs=0.05)


def tally(
    config: dict[str, Any], state: dict[str, Tensor], layer: int, calls: list[Any]
) -> tuple[list[int], list[float]]:
    """How many tokens each expert got, and the sum of the norms of what it added."""
    mlp, gate, up, down = NAMES.get(
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
    assert choose_experts(usage, 4, 2) == [[], [0, 2], [0, 1], []]  # of equals the first


def test_random_is_a_choice_of_its_own(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    removed: list[list[list[int]]] = []
    for seed, criterion in enumerate(("taylor", "random", "random", "random")):
        seeded = replace(context, seed=max(seed, 2))  # two alike
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


# What is refused


def mixture(count: int, top: int) -> ExpertsFFN:
    return ExpertsFFN(
        "mlp",
        "mlp",
        ("gate_proj", "up_proj", "down_proj"),
        hidden_size=128,
        size=64,
        count=count,
        per_token=top,
        renormalize=True,
        activation="silu",
    )


@pytest.mark.parametrize(
    ("count", "top", "ratio", "kept"),
    [
        (8, 2, 0.0, 8),
        (8, 2, 0.25, 6),
        (8, 2, 0.75, 2),
        (128, 8, 0.5, 64),
        (60, 4, 0.1, 54),
        (8, 2, 0.3, 6),
        (8, 2, 0.1875, 7),
        (8, 2, 0.07, 7),
    ],
)
def test_kept_experts(count: int, top: int, ratio: float, kept: int) -> None:
    assert kept_experts(mixture(count, top), ratio) == kept


@pytest.mark.parametrize(
    ("count", "top", "ratio", "words", "hint"),
    [
        (8, 2, 0.06, "less than one", "--experts 0.125"),
        (60, 4, 0.001, "less than one", "--experts 0.01667"),
        (8, 2, 0.9, "1 of 8 experts would stay, and a token goes to 2", "--experts 0.75"),
        (12, 4, 0.75, "3 of 12 experts would stay, and a token goes to 4", "--experts 0.6667"),
        (4, 4, 0.25, "none can be removed", "heads or layers"),
    ],
)
def test_shares_that_cannot_be(count: int, top: int, ratio: float, words: str, hint: str) -> None:
    with pytest.raises(Refused, match=words) as caught:
        kept_experts(mixture(count, top), ratio)
    assert hint in caught.value.hint
    if "--experts" in hint:  # what is named is legal, and does something
        assert kept_experts(mixture(count, top), float(hint.split()[1])) in (count - 1, top)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_shares_outside_the_range(ratio: float) -> None:
    with pytest.raises(UsageError, match="not a share"):
        kept_experts(mixture(8, 2), ratio)


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
    result = prune(
        plain(ffn=0.5), sources["qwen3_moe"], tmp_path / "ffn", context
    )  # dense in all its layers
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
