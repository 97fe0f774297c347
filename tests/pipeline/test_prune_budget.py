"""Budgets and thresholds: the smallest cut that meets the budget, or a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgewright.checkpoints.config import read_config
from edgewright.compress.prune.options import Budget, PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.prune.step import pruned_state
from edgewright.errors import Refused, UsageError
from edgewright.pipeline.forecast import device_row
from edgewright.pipeline.prune_budget import shares_within
from edgewright.pipeline.recipe_file import load_recipe
from edgewright.pipeline.run import run_recipe
from edgewright.steps.context import StepContext
from edgewright.steps.state import State, checkpoint_state
from edgewright.targets import load_target

MakeModel = Callable[..., Path]
CONFIGS = Path(__file__).parents[1] / "configs"
BOARD = "jetson-orin-nano-8gb"


@pytest.fixture
def qwen(tmp_path: Path) -> State:
    shutil.copy(CONFIGS / "qwen2.5-3b.json", tmp_path / "config.json")
    return checkpoint_state(tmp_path)


def asked(**limits: Any) -> PruneOptions:
    return PruneOptions(budget=Budget(**limits))


def shares(options: PruneOptions) -> tuple[float, float]:
    return options.heads, options.ffn


def test_parameters(qwen: State) -> None:
    limit = 2_700_000_000
    chosen = shares_within(asked(parameters=limit), qwen, None)
    assert chosen.budget is None
    assert pruned_state(chosen, qwen).parameters <= limit < qwen.parameters
    less = PruneOptions(ffn=chosen.ffn - 0.02)
    assert pruned_state(less, qwen).parameters > limit  # one step less would not have done


def test_over_ffn_alone_spares_the_heads(qwen: State) -> None:
    chosen = shares_within(asked(parameters=2_700_000_000, over=("ffn",)), qwen, None)
    assert chosen.heads == 0
    assert pruned_state(chosen, qwen).parameters <= 2_700_000_000


@pytest.mark.parametrize("limit", ["decode_tok_s", "memory_bytes"])
def test_what_the_device_is_predicted_to_give(limit: str, qwen: State) -> None:
    def row(state: State) -> dict[str, Any]:
        return device_row("", State(state.architecture, "int4"), load_target(BOARD), 2048, 1)

    now = row(qwen)
    wanted = {
        "decode_tok_s": now["decode_tok_s"] * 1.2,
        "memory_bytes": int(now["total_bytes"] * 0.85),
    }[limit]
    after = row(pruned_state(shares_within(asked(**{limit: wanted}), qwen, BOARD), qwen))
    assert (
        after["decode_tok_s"] >= wanted
        if limit == "decode_tok_s"
        else after["total_bytes"] <= wanted
    )
    assert shares_within(asked(**{limit: wanted}, target=BOARD), qwen, None) == shares_within(
        asked(**{limit: wanted}), qwen, BOARD
    )
    with pytest.raises(UsageError, match="needs a device"):
        shares_within(asked(**{limit: wanted}), qwen, None)


def test_out_of_reach_and_not_needed(qwen: State) -> None:
    with pytest.raises(Refused, match=r"the smallest that is legal has .* parameters"):
        shares_within(asked(parameters=1_000_000), qwen, None)
    with pytest.raises(Refused, match="nothing would be pruned"):
        shares_within(asked(parameters=10**10), qwen, None)


@pytest.mark.parametrize("wrong", [{"heads": 0.25}, {"ffn_threshold": 0.5}])
def test_a_budget_decides_alone(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="a budget sets the shares"):
        PruneOptions(budget=Budget(parameters=5), **wrong)


def test_a_share_and_a_threshold() -> None:
    with pytest.raises(ValidationError, match="give heads or heads_threshold"):
        PruneOptions(heads=0.5, heads_threshold=0.5)


def test_a_threshold_removes_what_scores_below_it(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("qwen2")
    result = prune(
        PruneOptions(heads_threshold=1.0, criterion="activation"), source, tmp_path / "out", context
    )
    scores = result.details["head_importance"]
    below = [
        [head for head, s in enumerate(layer) if s < sum(layer) / len(layer)] for layer in scores
    ]
    share = sum(map(len, below)) / 24
    assert share > 0
    assert any(f"{share:.1%} of the heads score below 1 " in note for note in result.notes)
    assert {len(gone) for gone in result.details["pruned_heads"]} == {
        8 - read_config(tmp_path / "out")["num_attention_heads"]
    }
    with pytest.raises(Refused, match="nothing scores so low") as caught:
        prune(
            PruneOptions(heads_threshold=1e-6, criterion="activation"),
            source,
            tmp_path / "none",
            context,
        )
    assert "the least important of the heads" in caught.value.hint
    assert not (tmp_path / "none").exists()


def test_in_a_recipe(make_model: MakeModel, text_file: Path, tmp_path: Path) -> None:
    source = make_model("llama")
    before = checkpoint_state(source).parameters
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {source}\ncalibration: {{source: 'text:{text_file}', samples: 4, seq_len: 32}}\n"
        f"evaluate: {{perplexity: ['text:{text_file}'], windows: 2, seq_len: 32, latency: null}}\n"
        "steps:\n  - {kind: prune, criterion: magnitude, "
        f"budget: {{parameters: {int(before * 0.8)}}}}}\n"
    )
    ledger = run_recipe(load_recipe(recipe), tmp_path / "run")
    (step,) = [s for s in ledger["steps"] if s["name"] == "prune"]
    assert step["metrics"]["parameters"] <= int(before * 0.8)
    assert step["config"]["ffn"] > 0
    assert step["metrics"]["parameters"] == ledger["plan"]["rows"][1]["parameters"]
    cut = json.loads((tmp_path / "run" / "prune" / "cut.json").read_text())
    assert len(cut["neurons"][0]) == read_config(tmp_path / "run" / "prune")["intermediate_size"]
    assert len(cut["heads"]) == 3
