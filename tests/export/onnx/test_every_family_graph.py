"""The graphs of every family against stock transformers, also far from the first position."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from family_table import SETTINGS
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder

STARTS = (0, 9000, 40000)
PROMPT, STEPS = 32, 8
"""Prompts are twice as long as the windows of the tiny models."""


def cached_logits(decoder: OnnxDecoder, ids: NDArray[np.int64], start: int) -> NDArray[np.float32]:
    """Logits [positions, vocabulary] of a prompt and of single tokens after it."""
    places = start + np.arange(ids.shape[1])[None]
    prompt = np.ones((1, PROMPT), np.int64)
    logits, past = decoder.forward(ids[:, :PROMPT], prompt, places[:, :PROMPT])
    found = [logits[0]]
    for i in range(PROMPT, ids.shape[1]):
        now = slice(i, i + 1)
        mask = np.ones((1, i + 1), np.int64)
        logits, past = decoder.forward(ids[:, now], mask, places[:, now], past)
        found.append(logits[0])
    return np.concatenate(found)


@pytest.mark.parametrize("family", sorted(SETTINGS))
def test_graphs_compute_what_transformers_computes(
    family: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_model(family)
    model = AutoModelForCausalLM.from_pretrained(source).eval()
    rows = [np.random.default_rng(seed).integers(1, 500, (1, PROMPT + STEPS)) for seed in STARTS]
    wanted = list[NDArray[np.float32]]()
    for start, ids in zip(STARTS, rows, strict=True):
        places = torch.arange(start, start + PROMPT + STEPS)[None]
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(ids), position_ids=places).logits[0]
        wanted.append(logits.numpy())
    for format in ("onnx", "ort"):
        export_onnx(source, tmp_path / format, "fp32", format=format)
        decoder = OnnxDecoder(tmp_path / format, threads=1)
        for start, ids, expected in zip(STARTS, rows, wanted, strict=True):
            gap = np.abs(cached_logits(decoder, ids, start) - expected).max()
            assert gap <= 1e-4 * np.abs(expected).max(), (format, start)
