"""Small students and options for the tests of quantization-aware training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgewright.compress.distill import stages
from edgewright.compress.distill.options import DistillOptions, Stage
from edgewright.compress.distill.trainer import train

__all__ = ["MakeModel", "options", "small", "watch_student"]

MakeModel = Callable[..., Path]
SMALL = {
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}


def small(make: MakeModel, family: str = "llama", **config: Any) -> Path:
    """Return a small model of a family."""
    layers = (
        {"layer_types": ["sliding_attention", "full_attention"]} if family == "gemma3_text" else {}
    )
    return make(family, **SMALL | layers | config)


def options(
    teacher: Path | None, text_file: Path, steps: int = 12, **changes: Any
) -> DistillOptions:
    """Return options of a distillation with one stage and a 4-bit grid."""
    loss = "logits" if teacher else "labels"
    settings: dict[str, Any] = {
        "teacher": str(teacher) if teacher else None,
        "data": f"text:{text_file}",
        "seq_len": 24,
        "batch_size": 4,
        "stages": (Stage(loss=loss, steps=steps, lr=3e-3),),
        "bf16": False,
        "qat": {"bits": 4, "group_size": 64},
    }
    return DistillOptions(**settings | changes)


def watch_student(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record the weights and logits of a student at the end of its training."""
    seen: dict[str, Any] = {}
    ids = torch.arange(30).view(2, 15) * 7 % 512

    def watched(objective: Any, *args: Any) -> list[float]:
        losses = train(objective, *args)
        student = objective.student
        linears = {
            n: m
            for n, m in student.named_modules()
            if isinstance(m, nn.Linear) and ".layers." in f".{n}" and n != "lm_head"
        }
        with torch.no_grad():
            seen.update(
                weights={n: m.weight.clone() for n, m in linears.items()},
                ids=ids,
                logits=student(ids).logits,
            )
        return losses

    monkeypatch.setattr(stages, "train", watched)
    return seen
