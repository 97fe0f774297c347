"""The refit after a cut: exact where possible, else better than none, and the result loads."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from torch import Tensor

from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tensors import read_state
from edgewright.compress.prune.compensate import DAMPS, RegressionSums, choose_damp, refit
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.models import architecture
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]


def sums(y: Tensor, t: Tensor, weight: Tensor) -> RegressionSums:
    """Of tokens y [n, k] with wanted outputs t [n, out], for a weight [out, k]."""
    made = RegressionSums.zeros(t.shape[1], y.shape[1], y.device)
    made.hessian = made.hessian.to(y)
    made.cross = made.cross.to(y)
    for part in range(0, len(y), 7):
        made.add(y[part : part + 7], (t - y @ weight.T)[part : part + 7])
    return made


def test_refit_is_exact_where_the_kept_inputs_tell_the_removed_ones() -> None:
    torch.manual_seed(0)
    weight, kept = torch.randn(5, 8), [0, 2, 3, 5, 6]
    y, x = torch.randn(400, 5), torch.empty(400, 8)
    x[:, kept], x[:, [1, 4, 7]] = y, y @ torch.randn(5, 3)
    fitted = weight[:, kept] + refit(sums(y, x @ weight.T, weight[:, kept]), damp=1e-9)
    torch.testing.assert_close(y @ fitted.T, x @ weight.T, rtol=1e-3, atol=1e-3)


def test_refit_minimises_its_objective() -> None:
    """The gradient of |W'y - t|^2 + lambda |W' - W|^2 vanishes at the answer."""
    torch.manual_seed(2)
    weight, y, t = (
        torch.randn(4, 3).double(),
        torch.randn(50, 3).double(),
        torch.randn(50, 4).double(),
    )
    fitted = (weight + refit(sums(y, t, weight), damp=0.3)).requires_grad_()
    ridge = 0.3 * (y.T @ y).diagonal().mean()
    objective = (y @ fitted.T - t).pow(2).sum() + ridge * (fitted - weight).pow(2).sum()
    (gradient,) = torch.autograd.grad(objective, fitted)
    assert float(gradient.abs().max()) < 1e-9


def test_loss_is_that_of_the_tokens() -> None:
    torch.manual_seed(3)
    one, two, y, t = torch.randn(4, 3), torch.randn(4, 3), torch.randn(50, 3), torch.randn(50, 4)
    seen = sums(y, t, torch.zeros(4, 3))
    got = seen.loss(one) - seen.loss(two)
    assert got == pytest.approx(
        float((y @ one.T - t).pow(2).sum() - (y @ two.T - t).pow(2).sum()), rel=1e-4
    )


@pytest.mark.parametrize("damp", [0.01, 1e6, math.inf])
def test_refit_without_data_or_with_a_heavy_ridge_keeps_the_weights(damp: float) -> None:
    weight = torch.randn(3, 4)
    y = torch.randn(10, 4) if damp > 1 else torch.zeros(10, 4)
    torch.testing.assert_close(
        refit(sums(y, torch.zeros(10, 3), weight), damp), torch.zeros(3, 4), rtol=0, atol=1e-4
    )


def test_the_ridge_follows_what_was_held_out() -> None:
    torch.manual_seed(4)
    truth, weight, y = torch.randn(4, 30), torch.randn(4, 30), torch.randn(2000, 30)
    clean, noise = y @ truth.T, torch.randn(2000, 4)
    assert choose_damp(
        sums(y[:1000], clean[:1000], weight), sums(y[1000:], clean[1000:], weight)
    ) == min(DAMPS)
    assert math.isinf(
        choose_damp(sums(y[:20], (clean + 9 * noise)[:20], truth), sums(y[20:], clean[20:], truth))
    )  # few tokens, and noisy
    assert math.isinf(
        choose_damp(sums(y, clean, weight), sums(y[:0], clean[:0], weight))
    )  # nothing held out


def text(file: Path, seed: int, words: int) -> Path:
    rng = random.Random(seed)
    known = " ".join(SENTENCES).split()
    file.write_text(" ".join(rng.choice(known) for _ in range(words)))
    return file


def error(source: Path, out: Path, rows: list[Tensor]) -> float:
    """Mean squared difference of the final hidden states, relative to their power."""
    ids = torch.stack([row[0] for row in rows])
    with torch.no_grad():
        whole, small = (load_model(p).model(input_ids=ids).last_hidden_state for p in (source, out))
    return float((whole - small).pow(2).mean() / whole.pow(2).mean())


@pytest.mark.parametrize(
    ("family", "cut"),
    [
        ("qwen2", {"heads": 0.5}),
        ("llama", {"ffn": 0.5}),
        ("gemma3_text", {"heads": 0.5, "ffn": 0.25, "layers": 1}),
    ],
)
def test_a_compensated_cut_is_nearer_to_the_original(
    family: str, cut: dict[str, Any], make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model(family)
    seen, unseen = text(tmp_path / "seen.txt", 0, 3000), text(tmp_path / "unseen.txt", 1, 300)
    context = replace(context, calibration=CalibrationData(f"text:{seen}", samples=128, seq_len=32))
    for name, compensate in (("plain", False), ("refitted", True)):
        result = prune(PruneOptions(**cut, compensate=compensate), source, tmp_path / name, context)
        assert (
            result.details["max_relative_difference"] < 1e-4
        )  # against the masked model, refitted or not
    rows = CalibrationData(f"text:{unseen}", samples=8, seq_len=32).rows(source, 0)
    assert error(source, tmp_path / "refitted", rows) < error(source, tmp_path / "plain", rows)


def test_only_the_two_output_projections_change(
    make_model: MakeModel, context: StepContext, tmp_path: Path
) -> None:
    source = make_model("qwen2", dtype="bfloat16")
    for name, compensate in (("plain", False), ("refitted", True)):
        prune(PruneOptions(heads=0.5, compensate=compensate), source, tmp_path / name, context)
    plain, refitted = (read_state(tmp_path / name) for name in ("plain", "refitted"))
    o, down = architecture(read_config(source)).layers[0].outputs
    changed = {key.split(".", 3)[3] for key in plain if not torch.equal(plain[key], refitted[key])}
    assert {f"{o}.weight"} <= changed <= {f"{o}.weight", f"{down}.weight"}
    assert {t.dtype for t in refitted.values()} == {torch.bfloat16}
