"""Averaged key/value heads: rotation alone changes no logit, and it makes the mean better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.kv_merge import (
    Projections,
    align,
    average_heads,
    mean_of_groups,
    projections_of,
    store,
)
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.errors import Refused
from edgewright.models import FAMILIES, Rotary, architecture, decoder_layers
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
IDS = torch.arange(1, 41).view(1, -1) * 7 % 500


def logits(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def replaced_by_their_mean(folder: Path, groups: int) -> Tensor:
    """Logits of the original with every key and value head overwritten with its group's mean."""
    model = load_model(folder)
    described = architecture(read_config(folder))
    for module, layer in zip(decoder_layers(model, described), described.layers, strict=True):
        for part in (layer.attention.k, layer.attention.v):
            linear = module.get_submodule(part.stored_name)
            for parameter in (linear.weight, linear.bias):
                if parameter is not None:
                    heads = parameter.data[part.rows].view(groups, -1, 64, *parameter.shape[1:])
                    heads.copy_(heads.mean(1, keepdim=True).expand_as(heads))
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


MERGEABLE = sorted(FAMILIES.keys() - {"olmo2", "olmo3"})
"""A norm over all heads cannot be merged; that is refused."""


@pytest.mark.parametrize("family", MERGEABLE)
def test_the_mean_of_the_heads(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family, num_key_value_heads=4)
    result = prune(PruneOptions(merge_kv=2, merge="mean"), source, tmp_path / "out", context)
    assert read_config(tmp_path / "out")["num_key_value_heads"] == 2
    torch.testing.assert_close(
        logits(tmp_path / "out"), replaced_by_their_mean(source, 2), rtol=1e-3, atol=1e-3
    )
    assert "4 -> 2" in result.notes[0]
    assert "50%" in result.notes[0]


@pytest.mark.parametrize("bias", [False, True])
def test_turning_changes_no_logit(
    bias: bool, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Random moments give arbitrary rotations; queries and o_proj must undo all of them."""
    source = make_model("llama", attention_bias=bias, num_key_value_heads=4)
    config, state = read_config(source), read_state(source)
    model = load_model(source)
    with torch.no_grad():
        before = model(input_ids=IDS, use_cache=False).logits
    for index, layer in enumerate(architecture(config).layers):
        old = projections_of(state, layer)
        root = torch.randn(
            old.k.shape[-1], old.k.shape[-1], generator=torch.Generator().manual_seed(index)
        )
        new = align(old, root @ root.T, 2, Rotary(64).pairs)
        assert not torch.allclose(new.k, old.k, atol=1e-2)
        assert not torch.allclose(new.v, old.v, atol=1e-2)
        store(state, layer, new)
    model.load_state_dict(state, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(
            model(input_ids=IDS, use_cache=False).logits, before, rtol=1e-3, atol=1e-3
        )


def test_heads_that_differ_only_by_their_basis_merge_without_loss() -> None:
    """Two rotated copies of one head: after alignment their mean is that head again."""
    generator = torch.Generator().manual_seed(0)
    k, v, q = (torch.randn(n, 8, 16, generator=generator) for n in (1, 1, 4))
    o = torch.randn(16, 4, 8, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    angle = torch.rand(4, generator=generator) * 6
    cos, sin = angle.cos().diag(), angle.sin().diag()
    plane = torch.cat([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)])
    attention = Projections(
        torch.cat([q[:2], plane @ q[2:]]),
        torch.cat([k, plane @ k]),
        torch.cat([v, turn @ v]),
        torch.cat([o[:, :2], o[:, 2:] @ turn.T], 1),
    )
    root = torch.randn(16, 40, generator=generator)
    small = average_heads(align(attention, root @ root.T, 1, Rotary(8).pairs), 1)
    for head in range(4):
        torch.testing.assert_close(
            o[:, head] @ v[0], small.o[:, head] @ small.v[0], rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(
            q[head].T @ k[0], small.q[head].T @ small.k[0], rtol=1e-3, atol=1e-3
        )
    assert not torch.allclose(mean_of_groups(attention.v, 1)[0], attention.v[0], atol=0.1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_aligned_is_nearer_to_the_original_than_the_mean(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family, num_key_value_heads=8)
    whole = logits(source)
    errors = {}
    for how in ("mean", "aligned"):
        result = prune(PruneOptions(merge_kv=2, merge=how), source, tmp_path / how, context)
        errors[how] = float((logits(tmp_path / how) - whole).pow(2).mean())
        assert result.details["merged"]["max_relative_difference"] < 1e-4
    assert errors["aligned"] < errors["mean"]


def test_merging_comes_before_cutting(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("llama", num_key_value_heads=8)
    result = prune(
        PruneOptions(merge_kv=2, heads=0.5, ffn=0.5, compensate=False),
        source,
        tmp_path / "out",
        context,
    )
    config = read_config(tmp_path / "out")
    assert (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["intermediate_size"],
    ) == (4, 2, 256)
    assert result.details["merged"]["max_relative_difference"] < 1e-4
    assert result.details["max_relative_difference"] < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("have", "groups", "possible"), [(8, 3, "1, 2, 4"), (2, 2, "1"), (1, 1, "least there is")]
)
def test_impossible_groups_name_the_possible_ones(
    have: int,
    groups: int,
    possible: str,
    make_model: MakeModel,
    context: StepContext,
    tmp_path: Path,
) -> None:
    with pytest.raises(Refused, match="cannot be merged") as caught:
        prune(
            PruneOptions(merge_kv=groups),
            make_model("llama", num_key_value_heads=have),
            tmp_path / "out",
            context,
        )
    assert possible in caught.value.hint
    assert not (tmp_path / "out").exists()
