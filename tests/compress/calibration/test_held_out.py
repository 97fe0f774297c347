"""Held-out rows: neither calibration nor training reads them, and the loss on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.compress.calibration.held_out import HeldOut, hold_out_rows, mean_loss
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.runner import distill
from edgewright.errors import UsageError
from edgewright.steps.context import CalibrationData, StepContext

MakeModel = Callable[..., Path]


def test_rows_set_aside_are_neither_learnt_nor_calibrated_on(
    make_model: MakeModel, text_file: Path, monkeypatch: Any
) -> None:
    model = make_model("llama")
    source = f"text:{text_file}"
    held = hold_out_rows(
        source, 8, source, 24, CalibrationData(source, samples=1000, seq_len=32), model
    )
    assert (len(held.rows), held.skip) == (8, 8)
    whole = CalibrationData(source, 10_000, 24).rows(model, 0)
    assert all(torch.equal(a, b) for a, b in zip(held.rows, whole[-8:], strict=True))
    stream = torch.cat([row[0] for row in whole]).tolist()
    calibrated = torch.cat([row[0] for row in held.calibration.rows(model, 0)]).tolist()
    assert calibrated == stream[: len(calibrated)]
    assert len(stream) - 8 * 24 - 32 < len(calibrated) <= len(stream) - 8 * 24
    seen: list[list[int]] = []

    def watch(_objective: Any, rows: Any, *_: Any) -> list[float]:
        seen.extend(next(rows)[0].tolist() for _ in range(2 * (len(whole) - 8)))
        return [1.0]

    monkeypatch.setattr("edgewright.compress.distill.stages.train", watch)
    stages = (Stage(loss="labels", steps=len(whole) - 8),)
    options = DistillOptions(
        teacher=None, data=source, seq_len=24, batch_size=2, hold_out=held.skip, stages=stages
    )
    distill(options, model, text_file.parent / "learnt", StepContext())
    assert sorted(seen) == sorted(2 * [row[0].tolist() for row in whole[:-8]])


def test_other_sources_to_measure_on(
    make_model: MakeModel, text_file: Path, tmp_path: Path
) -> None:
    model = make_model("llama")
    calibration = CalibrationData(f"text:{text_file}", samples=6, seq_len=32)
    builtin = hold_out_rows("builtin:reasoning", 5, f"text:{text_file}", 64, calibration, model)
    assert (len(builtin.rows), builtin.skip, builtin.calibration) == (5, 0, calibration)
    other = tmp_path / "other.txt"
    other.write_text("A different story, about a lighthouse and its keeper.\n" * 12)
    apart = hold_out_rows(f"text:{other}", 1000, f"text:{text_file}", 24, calibration, model)
    assert apart.skip == 0
    assert apart.calibration == calibration
    assert len(apart.rows) > 5
    other.write_text("Short.\n" * 3)
    with pytest.raises(UsageError, match="too few to hold some of them out") as caught:
        hold_out_rows(f"text:{other}", 8, f"text:{other}", 8, calibration, model)
    assert "held_out" in caught.value.hint
    with pytest.raises(UsageError, match="would overlap the held-out rows"):
        hold_out_rows(
            f"text:{text_file}",
            8,
            f"text:{text_file}",
            24,
            replace(calibration, seq_len=4000),
            model,
        )


def test_loss_is_the_mean_over_all_scored_tokens(make_model: MakeModel) -> None:
    model = load_model(make_model("qwen2"))
    rows = [torch.arange(20).view(2, 10) * 7 % 500, torch.arange(50).view(2, 25) * 3 % 500]
    rows[0][1], rows[1][1] = rows[0][0], rows[1][0]
    rows[1][1, :20] = -100
    total = 0.0
    tokens = 0
    with torch.no_grad():
        for row in rows:
            logits = model(row[:1]).logits[0]
            total += sum(
                float(F.cross_entropy(logits[i], row[1, i + 1]))
                for i in range(row.shape[1] - 1)
                if row[1, i + 1] >= 0
            )
            tokens += sum(int(label) >= 0 for label in row[1, 1:])
    assert tokens == 9 + 5
    assert mean_loss(rows, model) == pytest.approx(total / tokens, rel=1e-5)


def test_parts_of_one_file(make_model: MakeModel, tmp_path: Path) -> None:
    """Disjoint parts are other data, the same part is the same data, and others are refused."""
    model = make_model("llama")
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(f'{{"text": "Row {n} has a few words of its own."}}\n' for n in range(90))
    )
    whole = f"jsonl:{file}"
    learning = f"{whole}[:-30]"
    calibration = CalibrationData(learning, samples=6, seq_len=16)

    def held(source: str) -> HeldOut:
        return hold_out_rows(source, 1000, learning, 16, calibration, model)

    apart = held(f"{whole}[-30:]")
    assert (apart.skip, apart.calibration) == (0, calibration)
    text = load_tokenizer(model).decode([token for row in apart.rows for token in row[0]])
    assert text.startswith("Row 60 has")
    shared = held(learning)
    assert shared.skip == len(shared.rows) > 0
    assert len(shared.rows) < len(apart.rows)
    for overlap in (whole, f"{whole}[50:]"):
        with pytest.raises(UsageError, match="have rows in common"):
            held(overlap)
