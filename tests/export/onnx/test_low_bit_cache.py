"""Artifacts whose keys and values are cached in 8 bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgewright.console import progress
from edgewright.errors import ParityFailed, UsageError
from edgewright.export.onnx import cache_ranges
from edgewright.export.onnx.cache_ranges import ChannelRange, channel_ranges
from edgewright.export.onnx.parity import log_softmax
from edgewright.export.onnx.reference import reference_logits
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.slots import OnnxEngine
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.generation.decoding import Decoding
from edgewright.generation.generate import generate
from edgewright.steps.context import CalibrationData, StepContext

CONTEXT = StepContext(CalibrationData(samples=64, seq_len=64))
TEXT = [(17 * k) % 200 + 20 for k in range(48)]
FAMILIES = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"]
"""With biases, norms of heads, softcaps, windows, fused projections."""
FORMATS = ["ort", "onnx"]
"""`onnx` is the graph that TensorRT reads, in float32."""


def exported(
    make_model: Callable[..., Path], out: Path, family: str, format: str = "ort", **options: Any
) -> Path:
    export(ExportOptions(format=format, **options), make_model(family), out, CONTEXT)
    return out


def filled(decoder: OnnxDecoder) -> list[NDArray[Any]]:
    """Keys and values of the text, each [kv_heads, positions, head_dim]."""
    cache = decoder.open_cache(1, len(TEXT))
    ids = np.array([TEXT])
    decoder.step(ids, np.ones_like(ids), cache)
    return [value.numpy()[0, :, : len(TEXT)].copy() for value in cache.past]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_cached_is_the_float_cache_to_half_a_step(
    make_model: Callable[..., Path], tmp_path: Path, family: str, format: str
) -> None:
    floats = OnnxDecoder(exported(make_model, tmp_path / "float", family, format), 1)
    artifact = exported(make_model, tmp_path / "int8", family, format, kv_cache="int8")
    rounded = OnnxDecoder(artifact, 1)
    assert 4 * rounded.position_bytes == floats.position_bytes
    graph = onnx.load(artifact / "model.onnx", load_external_data=False).graph
    constants = {
        one.name: numpy_helper.to_array(one) for one in graph.initializer if not one.external_data
    }
    pairs = zip(rounded.past_names, filled(floats), filled(rounded), strict=True)
    for number, (name, wanted, integers) in enumerate(pairs):
        assert integers.dtype == np.int8
        heads, _, width = wanted.shape
        scale, center = (
            constants[f"{name}.{part}"].reshape(heads, 1, width) for part in ("scale", "center")
        )
        if number < 2:  # later layers read what earlier ones rounded
            inside = np.abs(wanted - center) <= 127 * scale
            assert inside.mean() > 0.9
            error = np.abs(integers * scale + center - wanted)
            assert (error <= 0.5001 * scale + 1e-5)[inside].all()
        capped = family == "gemma2" and name.endswith("key")
        assert np.any(center) != capped, "a softcap is not blind to moved keys"


@pytest.mark.parametrize("format", FORMATS)
def test_the_loss_is_recorded_and_small(
    make_model: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    artifact = exported(make_model, tmp_path / "int8", "qwen2", format, kv_cache="int8")
    parity = json.loads((artifact / "edgewright.json").read_text())["parity"]
    assert 0 < parity["parity/kv_cache_kl"] < 1e-3
    assert parity["parity/max_abs_diff"] < 1e-3, "torch is compared with the cache in float32"


@pytest.mark.parametrize("format", FORMATS)
def test_the_rounded_cache_computes_what_torch_does(
    make_model: Callable[..., Path], tmp_path: Path, format: str
) -> None:
    source = make_model("qwen2")
    artifact = exported(make_model, tmp_path / "int8", "qwen2", format, kv_cache="int8")
    decoder = OnnxDecoder(artifact, 1)
    text = CONTEXT.calibration.rows(source, 5)[0][0].tolist()
    ids = np.array([text])
    cache = decoder.open_cache(1, len(text))
    parts = [ids[:, :40], *(ids[:, [n]] for n in range(40, len(text)))]
    found: list[NDArray[np.float32]] = []
    for part in parts:
        mask = np.ones((1, cache.length + part.shape[1]), np.int64)
        found.append(decoder.step(part, mask, cache))
    (expected,) = reference_logits(source, [text], "stock")
    p, q = log_softmax(expected), log_softmax(np.concatenate(found, 1)[0])
    assert 0 < (np.exp(p) * (p - q)).sum(-1).mean() < 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp16"},
        {"logits": "last"},
        {"precision": "fp16", "format": "tensorrt"},
        {"logits": "last", "format": "onnx"},
    ],
)
def test_other_graphs(
    make_model: Callable[..., Path], tmp_path: Path, options: dict[str, str]
) -> None:
    floats = OnnxDecoder(exported(make_model, tmp_path / "float", "llama", **options), 1)
    artifact = exported(make_model, tmp_path / "int8", "llama", kv_cache="int8", **options)
    rounded = OnnxDecoder(artifact, 1)
    text = CONTEXT.calibration.rows(make_model("llama"), 5)[0][0].tolist()
    ids = np.array([text])
    one, other = (d.step(ids, np.ones_like(ids), d.open_cache(1)) for d in (floats, rounded))
    assert one.shape == other.shape
    assert 0 < np.abs(one - other).mean() < 0.04 * np.abs(one).mean()


def test_rows_that_come_and_go_answer_as_alone(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    decoder = OnnxDecoder(exported(make_model, tmp_path / "a", "qwen2", kv_cache="int8"), 1)
    prompts = [TEXT[:n] for n in (3, 40, 9, 20, 1, 33)]
    alone = [list(decoder.stream(prompt, 12)) for prompt in prompts]
    with progress("answering", len(prompts)) as bar:
        together = generate(OnnxEngine(decoder), prompts, Decoding(12), bar)
    assert together == alone


def test_a_center_outside_of_the_values_costs_nothing_but_room() -> None:
    one = ChannelRange(np.float32([-1, 2]), np.float32([3, 6]))
    np.testing.assert_allclose(one.center, [1, 4])
    np.testing.assert_allclose(one.scale * 127 / cache_ranges.HEADROOM, [2, 2])
    fixed = ChannelRange(one.low, one.high, movable=False)
    np.testing.assert_allclose(fixed.scale * 127 / 1.25, [3, 6])
    still = ChannelRange(np.zeros(1, np.float32), np.zeros(1, np.float32))
    assert still.scale > 0


def test_calibration_without_text(make_model: Callable[..., Path], tmp_path: Path) -> None:
    decoder = OnnxDecoder(exported(make_model, tmp_path / "a", "llama"), 1)
    with pytest.raises(UsageError, match="needs calibration text"):
        channel_ranges(decoder, [])


def test_a_cache_that_changes_the_model_is_not_kept(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_ranges, "HEADROOM", 0.01)
    with pytest.raises(ParityFailed, match="keys and values in 8 bits change the model"):
        exported(make_model, tmp_path / "a", "qwen2", kv_cache="int8")
    assert not (tmp_path / "a").exists()
