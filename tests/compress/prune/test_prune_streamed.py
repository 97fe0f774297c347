"""Pruning layer by layer from disk gives what pruning the loaded model gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES
from model_files import sharded
from torch import Tensor

from edgewright.checkpoints import loading, writer
from edgewright.checkpoints.config import read_architecture, read_config
from edgewright.checkpoints.free_memory import free_memory
from edgewright.checkpoints.hashing import content_hash
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.prune import rebuild
from edgewright.compress.prune.criteria import CRITERIA
from edgewright.compress.prune.cut import KeptParts, cut_layer
from edgewright.compress.prune.memory import prune_memory
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.compress.prune.scoring import score_layers, score_model
from edgewright.errors import EdgewrightError
from edgewright.models import FAMILIES, HEADS, architecture, expressible
from edgewright.steps.context import StepContext

MakeModel = Callable[..., Path]
LAYER_BY_LAYER = [name for name, one in CRITERIA.items() if not one.needs_gradient]


@pytest.mark.parametrize("criterion", LAYER_BY_LAYER)
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_same_scores(
    family: str, criterion: Any, copy_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    folder = sharded(copy_model(family, dtype="bfloat16"))
    rows, model = context.calibration.rows(folder, 0), architecture(read_config(folder))
    expected = score_model(load_model(folder), model, rows, criterion, 3)
    for budget in (None, 2 * rows[0].shape[1] * 4 * 128, 0):
        got = score_layers(Streamed(folder), rows, criterion, 3, ActivationBuffer(budget, tmp_path))
        for name in ("heads", "neurons", "layers"):
            assert torch.equal(getattr(got, name), getattr(expected, name))
        assert got.experts.keys() == expected.experts.keys()
        assert all(
            torch.equal(got.experts[i].importance, usage.importance)
            for i, usage in expected.experts.items()
        )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_recomputing_activations_changes_no_gradient(
    family: str, make_model: MakeModel, context: StepContext
) -> None:
    folder = make_model(family)
    config, rows = read_config(folder), context.calibration.rows(folder, 0)
    activation = FAMILIES[family].activation(config)
    may_idle = family in MIXTURES or activation == "relu2"  # a neuron below 0 for all tokens
    kept, recomputed = (
        score_model(
            load_model(folder),
            architecture(config),
            rows,
            "taylor",
            recompute=recompute,
        )
        for recompute in (False, True)
    )
    for name in ("heads", "neurons", "layers"):
        assert torch.equal(getattr(kept, name), getattr(recomputed, name))
        assert getattr(kept, name).min() > 0 or (name == "neurons" and may_idle)
    for layer, usage in recomputed.experts.items():
        assert torch.equal(usage.routed, kept.experts[layer].routed)  # nothing is counted twice
        assert usage.tokens == sum(row.shape[1] for row in rows)


def test_recomputing_keeps_one_layer_of_activations(
    make_model: MakeModel, context: StepContext
) -> None:
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
            score_model(
                load_model(folder),
                architecture(config),
                rows[:1],
                "taylor",
                recompute=recompute,
            )
        saved[recompute] = most
    assert saved[True] < saved[False] / 2


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("compensate", [False, True])
def test_both_proofs_agree(
    family: str, compensate: bool, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    narrower = {"experts": 0.5} if family in MIXTURES else {"ffn": 0.25}
    source = make_model(family, dtype="bfloat16")
    # What is refused is refused here too, see tests/models/test_expressible.py.
    heads = 0.0 if expressible(read_architecture(source), HEADS) else 0.5
    options = PruneOptions(
        heads=heads, **narrower, layers=1, criterion="norm", compensate=compensate
    )
    notes: dict[str, str] = {}
    for proof in ("stock", "streamed", "auto"):
        result = prune(options, source, tmp_path / proof, replace(context, proof=proof))
        assert result.details["max_relative_difference"] < 1e-4
        notes[proof] = next(note for note in result.notes if note.startswith("logits equal"))
    assert "stock transformers" in notes["stock"]
    assert "streamed" in notes["streamed"]
    assert notes["auto"] == notes["stock"]
    assert content_hash(tmp_path / "stock") == content_hash(tmp_path / "streamed")


@pytest.mark.parametrize("proof", ["stock", "streamed"])
def test_a_wrong_cut_is_found(
    proof: Any, make_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    def swapped(*args: Any) -> dict[str, Tensor]:
        small = cut_layer(*args)
        first, second = (
            name for name in small if name.endswith(("gate_proj.weight", "up_proj.weight"))
        )
        return small | {first: small[second], second: small[first]}

    monkeypatch.setattr(rebuild, "cut_layer", swapped)
    with pytest.raises(EdgewrightError, match="differs from the masked original"):
        prune(
            PruneOptions(ffn=0.5, criterion="norm"),
            make_model("llama"),
            tmp_path / "out",
            replace(context, proof=proof),
        )
    assert not list(tmp_path.iterdir())


def test_the_proof_follows_free_memory(make_model: MakeModel, monkeypatch: Any) -> None:
    source = Streamed(make_model("llama"))
    kept = KeptParts([list(range(8))] * 3, [list(range(128))] * 3, [0, 1, 2])
    rebuilt = rebuild.Rebuild(
        source, kept, [torch.ones(2, 8, dtype=torch.int64)], ActivationBuffer(), compensate=False
    )
    needed = 4 * rebuilt.architecture.parameters
    for free, way in ((2 * needed, "stock"), (2 * needed - 1, "streamed"), (None, "stock")):
        monkeypatch.setattr(loading, "free_memory", lambda _device, free=free: free)
        assert rebuild.choose_proof("auto", rebuilt, "cpu") == way
    assert rebuild.choose_proof("stock", rebuilt, "cpu") == "stock"
    assert free_memory() > 10**8


def test_sharded_in_sharded_out(
    copy_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    options = PruneOptions(heads=0.5, criterion="activation")
    prune(options, copy_model("qwen2"), tmp_path / "one", context)
    monkeypatch.setattr(writer, "SHARD_BYTES", 600_000)
    prune(options, sharded(copy_model("qwen2")), tmp_path / "many", context)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = read_state(tmp_path / "one"), read_state(tmp_path / "many")
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_pruning_by_activation_never_holds_the_model(
    make_model: MakeModel, context: StepContext, tmp_path: Path, monkeypatch: Any
) -> None:
    """At most one decoder layer has weights at any time."""
    most, held = 0, Streamed.held

    @contextmanager
    def counting(self: Streamed, index: int) -> Iterator[Any]:
        nonlocal most
        with held(self, index) as layer:
            most = max(
                most, sum(not p.is_meta for other in self.layers for p in other.parameters())
            )
            assert most == sum(not p.is_meta for p in layer.parameters())
            yield layer

    monkeypatch.setattr(Streamed, "held", counting)
    for name in ("prune.scoring.load_model", "prune.scoring.score_model"):
        monkeypatch.setattr(
            f"edgewright.compress.{name}", lambda *_: pytest.fail("the whole model is loaded")
        )
    options = PruneOptions(heads=0.5, ffn=0.5, layers=1, criterion="activation")
    prune(
        options,
        make_model("qwen3", num_hidden_layers=5),
        tmp_path / "out",
        replace(context, proof="streamed"),
    )
    assert most > 0


def test_plan_counts_what_a_criterion_needs(make_model: MakeModel) -> None:
    config = read_config(make_model("qwen2")) | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "head_dim": 128,
        "vocab_size": 151936,
        "dtype": "bfloat16",
    }
    config.pop("layer_types")
    model = architecture(config)
    parameters = model.parameters
    needed = {
        (criterion, compensate): prune_memory(
            model, model, criterion, 128 * 512, 512, 1 << 20, compensate=compensate
        )
        for criterion in ("taylor", "activation")
        for compensate in (False, True)
    }
    assert 1.5e9 < parameters < 1.6e9
    assert needed["activation", False] < 1e9
    assert needed["activation", True] > needed["activation", False] + 16 * 8960**2
    assert needed["taylor", False] > 4 * parameters
    assert prune_memory(
        model, model, "activation", 128 * 512, 512, 1 << 30, compensate=False
    ) < needed["activation", False] + (1 << 30)
