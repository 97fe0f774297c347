"""How a cut is spread over the rounds of iterative pruning."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.schedule import spread
from edgewright.compress.prune.sizes import sizes_after
from edgewright.errors import Refused, UsageError
from edgewright.models import architecture

QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
LLAMA_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
GEMMA_1B = {
    "model_type": "gemma3_text",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "num_hidden_layers": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
}


def walk(config: dict[str, Any], cuts: list[PruneOptions]) -> list[tuple[int, int, int]]:
    """Heads, neurons and layers after every cut, by the functions of the prune step."""
    sizes = []
    for cut in cuts:
        model = architecture(config)
        after = sizes_after(cut, model)
        heads, neurons = after["heads"], after["ffn"]
        layers = len(model.layers) - cut.layers
        config = {**config, "num_attention_heads": heads, "num_key_value_heads": after["kv_heads"]}
        config |= {"head_dim": model.attention_sizes.head_dim, "intermediate_size": neurons}
        config["num_hidden_layers"] = layers
        sizes.append((heads, neurons, layers))
    return sizes


@pytest.mark.parametrize("rounds", [1, 2, 3, 5, 12])
@pytest.mark.parametrize(
    "cut", [{"heads": 0.5}, {"ffn": 0.3}, {"layers": 5}, {"heads": 0.25, "ffn": 0.75, "layers": 8}]
)
@pytest.mark.parametrize(
    "config", [QWEN_7B, LLAMA_8B, GEMMA_1B], ids=lambda config: config["model_type"]
)
def test_the_last_round_ends_where_one_cut_would(
    config: dict[str, Any], cut: dict[str, Any], rounds: int
) -> None:
    once = walk(config, [PruneOptions(**cut)])[-1]
    cuts = spread(PruneOptions(**cut), architecture(config), rounds)
    sizes = walk(config, cuts)
    assert sizes[-1] == once
    assert 1 <= len(cuts) <= rounds
    assert all(cut.removes for cut in cuts)
    assert all(
        b <= a for before, after in pairwise(sizes) for a, b in zip(before, after, strict=True)
    )
    assert len(set(sizes)) == len(sizes)


def test_shares_are_geometric() -> None:
    sizes = walk(LLAMA_8B, spread(PruneOptions(ffn=0.75, layers=6), architecture(LLAMA_8B), 4))
    assert sizes == [(32, 10112, 30), (32, 7168, 29), (32, 5120, 28), (32, 3584, 26)]


def test_sparsity_comes_last_and_alone() -> None:
    cuts = spread(PruneOptions(ffn=0.5, sparsity="2:4"), architecture(LLAMA_8B), 3)
    assert [cut.sparsity for cut in cuts] == [None, None, "2:4"]
    assert [
        cut.sparsity for cut in spread(PruneOptions(sparsity="2:4"), architecture(LLAMA_8B), 3)
    ] == ["2:4"]


def test_what_cannot_be_reached_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="a model of 32 layers can lose 0 to 30"):
        spread(PruneOptions(layers=31), architecture(LLAMA_8B), 40)
    one = {**LLAMA_8B, "num_key_value_heads": 1}
    with pytest.raises(Refused, match="the only key/value head"):
        spread(PruneOptions(kv_heads=0.5), architecture(one), 3)
    with pytest.raises(UsageError, match="no final size"):
        spread(PruneOptions(heads_threshold=0.5), architecture(LLAMA_8B), 3)


def test_groups_go_in_rounds_too_and_merging_comes_first() -> None:
    whole = {**LLAMA_8B, "num_key_value_heads": 32}
    cuts = spread(PruneOptions(merge_kv=8, kv_heads=0.5, heads=0.5), architecture(whole), 2)
    assert [cut.merge_kv for cut in cuts] == [8, None]
    assert walk(LLAMA_8B, cuts)[-1][0] == 8
