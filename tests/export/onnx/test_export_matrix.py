"""Every family in every precision, from checkpoints of `prune` and `quantize`.

Parity, determinism, caches and TensorRT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DENSE

from edgewright.checkpoints.loading import load_model
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.errors import Refused
from edgewright.export.onnx.cut import Cut
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.tensorrt.rtx import check_build

METHODS: dict[str, dict[str, Any]] = {
    "gptq": {"group_size": 64},
    "table": {"group_size": 64, "head_bits": 8},
    "awq": {"method": "awq", "group_size": 64},
    "smoothquant": {"method": "smoothquant"},
    "int8": {"method": "int8"},
}
CUT = Cut(last_logits=True), Cut(window=24, sinks=3)
EXPORTS: list[tuple[str, str, str, Cut]] = [
    ("onnx", "fp32", "", Cut()),
    ("onnx", "fp16", "", Cut()),
    ("onnx", "bf16", "", Cut()),
    ("onnx", "int8-dynamic", "", Cut()),
    ("onnx", "int8-dynamic", "int8", Cut()),
    ("onnx", "int8", "smoothquant", Cut()),
    ("onnx", "int4", "gptq", Cut()),
    ("onnx", "int4", "awq", Cut()),
    ("onnx", "int4", "table", Cut()),
    ("onnx", "fp32", "", CUT[0]),
    ("onnx", "fp32", "", CUT[1]),
    ("ort", "fp32", "", Cut()),
    ("ort", "int4", "gptq", CUT[0]),
    ("ort", "int4", "awq", Cut()),
    ("ort", "int4", "table", Cut()),
    ("ort", "int4-a8", "table", Cut()),
    ("ort", "int8-dynamic", "", Cut()),
]
BUILT = [
    ("fp32", "", Cut()),
    ("fp16", "", Cut()),
    ("bf16", "", Cut()),
    ("int8-fp16", "smoothquant", Cut()),
    ("int4-fp16", "gptq", Cut()),
    ("fp16", "", CUT[0]),
    ("fp16", "", CUT[1]),
]


def named(value: object) -> str:
    """Of a cut, what it cuts; of anything else, itself."""
    return (
        ("last" if value.last_logits else f"window{value.window}")
        if isinstance(value, Cut)
        else str(value)
    )


@pytest.fixture(scope="module")
def checkpoint(
    make_model: Callable[..., Path], context: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """`checkpoint(family, method)`: a model directory, quantized by the method, made once."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, method: str = "") -> Path:
        # Rounded inputs flip near-ties of a random model, more of them with every layer: with three
        # layers the share of equal tokens lay at its limit, above or below it by the processor.
        one_layer = {
            "num_hidden_layers": 1,
            **({"layer_types": ["full_attention"]} if "gemma" in family else {}),
        }
        source = make_model(family, **(one_layer if method == "smoothquant" else {}))
        if method and (family, method) not in made:
            made[family, method] = tmp_path_factory.mktemp("packed") / method
            quantize(QuantizeOptions(**METHODS[method]), source, made[family, method], context)
        return made[family, method] if method else source

    return make


def built(artifact: Path) -> dict[str, float | str]:
    """Parse and build. `test_tensorrt` judges the size, on a wider model with less code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgewright.export.tensorrt.rtx.EXPANDED", 1e6)
        return check_build(artifact)


def digests(folder: Path) -> dict[str, str]:
    """What is in every file of a directory but the provenance, which holds times."""
    return {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in folder.iterdir()
        if f.name != "edgewright.json"
    }


@pytest.mark.parametrize(("format", "precision", "method", "cut"), EXPORTS, ids=named)
@pytest.mark.parametrize("family", DENSE)
def test_parity_and_the_same_bytes_twice(
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    family: str,
    format: str,
    precision: str,
    method: str,
    cut: Cut,
) -> None:
    source = checkpoint(family, method)
    result = export_onnx(
        source, tmp_path / "first", precision, format=format, cut=cut
    )  # raises where parity fails
    export_onnx(source, tmp_path / "second", precision, format=format, cut=cut)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert result.parity["parity/decode_steps"] >= 8
    if precision == "fp32":
        assert result.parity["parity/top1_prefill"] == result.parity["parity/top1_decode"] == 1
        assert result.parity["parity/max_abs_diff"] < 1e-3
    assert (result.parity["parity/low_bit_nodes"] > 0) == (
        precision not in ("fp32", "fp16", "bf16")
    )


@pytest.mark.parametrize("family", DENSE)
def test_a_cache_written_in_place_grows_and_loses_rows(
    checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    source = checkpoint(family)
    export_onnx(source, tmp_path / "out", "fp32", format="ort")
    decoder, model = OnnxDecoder(tmp_path / "out", threads=1), load_model(source)
    tokens = np.random.default_rng(3).integers(1, 500, (3, 21))
    mask = np.ones_like(tokens)
    mask[2, :6] = 0
    ends = [int(decoder.generate(tokens, mask, 4, [])[0, 3])]
    limits = {
        "max_new_tokens": 10,
        "do_sample": False,
        "pad_token_id": ends[0],
        "eos_token_id": ends,
    }
    want = model.generate(
        torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask), **limits
    )[:, 21:].numpy()
    np.testing.assert_array_equal(decoder.generate(tokens, mask, 10, ends), want)
    cache, plain = decoder.open_cache(1), np.random.default_rng(4).integers(1, 500, (1, 255))
    decoder.step(plain, np.ones_like(plain), cache)
    for length in range(256, 259):  # past the first 256 positions the memory is another
        logits = decoder.step(plain[:, -1:], np.ones((1, length), np.int64), cache)
    whole = np.concatenate([plain, *[plain[:, -1:]] * 3], 1)
    assert (
        np.abs(logits[0, -1] - decoder.forward(whole, np.ones_like(whole))[0][0, -1]).max() < 1e-4
    )


@pytest.mark.parametrize("family", DENSE)
def test_a_windowed_cache_stays_small_and_forgets_what_the_mask_of_a_prompt_hides(
    checkpoint: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """Logits are the same with sinks and window in the cache (decode) and in the mask (prefill)."""
    source = checkpoint(family)
    export_onnx(source, tmp_path / "out", "fp32", cut=CUT[1])
    decoder = OnnxDecoder(tmp_path / "out", threads=1)
    tokens = np.random.default_rng(5).integers(1, 500, (1, 70))
    cache = decoder.open_cache(1)
    stepped = [
        decoder.step(tokens[:, i : i + 1], np.ones((1, i + 1), np.int64), cache)[0, 0]
        for i in range(tokens.shape[1])
    ]
    assert cache.past[0].shape()[2] == CUT[1].window + CUT[1].sinks
    whole = decoder.forward(tokens, np.ones_like(tokens))[0][0]
    assert np.abs(whole - np.stack(stepped)).max() < 1e-4
    # Of a model whose own windows are all shorter, nothing is taken away.
    assert _first_difference(source, whole, tokens) == (
        None if all(_windows(source)) else CUT[1].window + CUT[1].sinks
    )


def _windows(source: Path) -> list[int]:
    from edgewright.checkpoints.config import read_architecture

    return [layer.attention.window for layer in read_architecture(source).layers]


def _first_difference(source: Path, logits: np.ndarray, tokens: np.ndarray) -> int | None:
    with torch.inference_mode():
        full = load_model(source)(torch.from_numpy(tokens)).logits[0].numpy()
    return next((i for i, gap in enumerate(np.abs(full - logits).max(-1)) if gap > 1e-3), None)


def test_a_window_shorter_than_the_models_own_is_refused(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="16 positions back"):
        export_onnx(checkpoint("mistral"), tmp_path / "out", "fp32", cut=Cut(window=8))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "method", "cut"), BUILT, ids=named)
@pytest.mark.parametrize("family", DENSE)
def test_tensorrt_builds_it(
    checkpoint: Callable[..., Path],
    tmp_path: Path,
    family: str,
    precision: str,
    method: str,
    cut: Cut,
) -> None:
    checked = export_onnx(
        checkpoint(family, method),
        tmp_path / "out",
        precision,
        format="tensorrt",
        cut=cut,
        extra_check=built,
    ).checked
    assert float(checked["tensorrt/engine_bytes"]) > 0
