"""Distillation, adapters, refits, merged heads and scores of every family.

As in test_every_family_compressed, families that differ in names only are slow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from family_table import SETTINGS
from torch import Tensor
from transformers import AutoModelForCausalLM

from edgewright.benchmarks.tasks.accuracy import score_text
from edgewright.benchmarks.tasks.backends import TorchBackend
from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.calibration.layer_inputs import first_inputs
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.compress.distill.teacher_logits import last_hidden, logits_of
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.data.packing import Encoded
from edgewright.errors import Refused
from edgewright.models import HEADS, MERGED_HEADS, expressible
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]
KINDS = ("cohere2", "gemma2", "granite", "phi3")
"""Parallel blocks and no positions, soft caps, factors, fused storage."""
EVERY = [
    pytest.param(family, marks=() if family in KINDS else pytest.mark.slow)
    for family in sorted(SETTINGS)
]
WHOLE_NORMS = ("olmo2", "olmo3")
FIXED = ("cohere2", "helium", "stablelm")
WHOLE_NORM, ONE_NUMBER = "one norm goes over all heads", "with one number of heads only"
IDS = torch.arange(7, 39).unsqueeze(0)


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def assert_near(got: Tensor, wanted: Tensor, limit: float) -> None:
    assert float((got - wanted).abs().max()) <= limit * float(wanted.abs().max())


@pytest.mark.parametrize("family", sorted(SETTINGS))
def test_logits_from_hidden_states(family: str, make_model: MakeModel) -> None:
    """Distillation and the layer-by-layer reader make the model's own logits of its states."""
    source = make_model(family)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    wanted = logits(model)
    with torch.no_grad():
        assert_near(logits_of(model, last_hidden(model, IDS)), wanted, 1e-5)
        streamed = Streamed(source)
        states, calls = first_inputs(streamed, [IDS])
        row = states[slice(0, 1)]
        for index, call in enumerate(calls):
            with streamed.held(index) as layer:
                row = call(layer, row)
        parts = list(streamed.logit_parts(row))
    assert_near(torch.cat(parts, -1), wanted, 1e-5)


def test_factors_of_embeddings_are_no_factors_of_states(make_model: MakeModel) -> None:
    """Granite multiplies embeddings that a caller gives; a large epsilon makes that visible."""
    source = make_model("granite", embedding_multiplier=12.0, rms_norm_eps=1.0)
    model = load_model(source)
    hidden = torch.randn(1, 8, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = logits_of(model, model.model.norm(hidden))
        assert_near(torch.cat(list(Streamed(source).logit_parts(hidden)), -1), wanted, 1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_a_step_of_training_and_a_score(
    family: str, make_model: MakeModel, context: StepContext, text_file: Path, tmp_path: Path
) -> None:
    """All weights, then adapters merged into them. The first step only warms up: its rate is 0."""
    teacher, student = make_model(family), make_model(family, seed=1, dtype="bfloat16")
    before = read_state(student)
    for name, more in (("all", {}), ("adapters", {"lora": {"r": 2}})):
        options = DistillOptions(
            teacher=str(teacher),
            data=f"text:{text_file}",
            seq_len=24,
            batch_size=2,
            stages=(Stage(loss="logits", steps=2, lr=1e-2),),
            bf16=False,
            **more,
        )
        result = distill(options, student, tmp_path / name, context)
        assert math.isfinite(sum(result.details["loss"]["logits"]))
        after = read_state(tmp_path / name)
        assert {key: (t.shape, t.dtype) for key, t in after.items()} == {
            key: (t.shape, t.dtype) for key, t in before.items()
        }
        assert any(not torch.equal(after[key], before[key]) for key in before)
    model = load_model(tmp_path / "all").float()
    with torch.no_grad():
        loss = float(model(input_ids=IDS, labels=IDS).loss)
    row = IDS[0].tolist()
    scores = score_text(TorchBackend(tmp_path / "all", "cpu"), [Encoded(row, row)])
    assert scores.perplexity == pytest.approx(math.exp(loss), rel=1e-3)


@pytest.mark.parametrize("family", EVERY)
def test_a_refit_is_nearer_to_the_original(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Also where two blocks read one norm: only one of them makes up for earlier losses."""
    source = make_model(family)
    rows = torch.stack([row[0] for row in context.calibration.rows(source, 0)])
    gaps = list[float]()
    wanted = hidden(source, rows)
    for compensate in (False, True):
        out = tmp_path / str(compensate)
        prune(PruneOptions(ffn=0.5, layers=1, compensate=compensate), source, out, context)
        gaps.append(float((hidden(out, rows) - wanted).square().mean()))
    assert gaps[1] < gaps[0]


def hidden(folder: Path, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return last_hidden(load_model(folder), ids)


@pytest.mark.parametrize("family", EVERY)
def test_heads_are_merged_or_refused(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """The step itself compares stock transformers with the original whose heads are averaged."""
    source = make_model(family)
    options = PruneOptions(merge_kv=1, merge="aligned")
    if family in WHOLE_NORMS:
        with pytest.raises(Refused, match=WHOLE_NORM):
            prune(options, source, tmp_path / "out", context)
        return
    result = prune(options, source, tmp_path / "out", context)
    assert result.details["merged"]["max_relative_difference"] < 1e-4
    assert read_architecture(tmp_path / "out").attention_sizes.kv_heads == 1


@pytest.mark.parametrize("family", sorted(SETTINGS))
def test_heads_that_stock_transformers_cannot_load_are_refused(
    family: str, make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    """Before any work: the calibration data do not exist."""
    source = make_model(family)
    model = read_architecture(source)
    why = WHOLE_NORM if family in WHOLE_NORMS else ONE_NUMBER if family in FIXED else None
    assert bool(expressible(model, HEADS)) == bool(why)
    assert bool(expressible(model, MERGED_HEADS)) == (family in WHOLE_NORMS)
    if why:
        context = replace(context, calibration=CalibrationData("text:missing.txt"))
        for cut in ({"heads": 0.5}, {"kv_heads": 0.5}):
            with pytest.raises(Refused, match=why):
                prune(PruneOptions(**cut), source, tmp_path / "out", context)
