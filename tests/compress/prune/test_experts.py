"""Mixtures of experts: a cut model equals the whole one with removed experts masked, by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from known_models import SMALL as A_DENSE
from prune_helpers import IDS, MIXTURE_NAMES, plain, stock_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.verify import probe_of, verify_with_stock
from edgewright.errors import EdgewrightError
from edgewright.models import architecture
from edgewright.steps.context import StepContext, StepResult

MakeModel = Callable[..., Path]
CUTS: dict[str, dict[str, Any]] = {
    "experts": {"experts": 0.25},
    "heads": {"heads": 0.5},
    "layers": {"layers": 1},
    "all": {"experts": 0.5, "heads": 0.25, "layers": 1},
}


def by_hand(
    state: dict[str, Tensor], config: dict[str, Any], layer: int, stay: list[int], x: Tensor
) -> Tensor:
    """A layer of experts, token by token, from a file's tensors; only `stay` is routed to."""
    mlp, *parts = MIXTURE_NAMES.get(
        config["model_type"], ("mlp", "gate_proj", "up_proj", "down_proj")
    )
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
    """Logits of the original with removed heads and layers masked, and experts by hand."""
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
    """The refit changes o_proj, and down_proj of dense layers; experts and routers stay."""
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
        "model, report = AutoModelForCausalLM.from_pretrained(\n"
        "    'out', dtype='float32', output_loading_info=True\n)\n"
        "tokenizer = AutoTokenizer.from_pretrained('out')\n"
        "ids = tokenizer('Seven boats', return_tensors='pt').input_ids\n"
        "made = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None)\n"
        f"logits = model(input_ids=torch.tensor({IDS.tolist()})).logits\n"
        "kinds = ('missing_keys', 'unexpected_keys', 'mismatched_keys')\n"
        "odd = [str(report[k]) for k in kinds if report[k]]\n"
        "ours = 'edgewright' in sys.modules\n"
        "print(json.dumps([made.shape[1] - ids.shape[1], logits[0].tolist(), odd, ours]))\n"
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
    """Some tools store experts fused, as transformers does in memory; transformers reads both."""
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
    """A tie between two experts may spoil one row; a wrong cut spoils all rows."""
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
