"""A cache in a provider's memory: the same logits and tokens as without, on the CPU provider."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edgewright.errors import UsageError
from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.on_provider import ProviderDecoder, providers_for
from edgewright.export.onnx.runtime import OnnxDecoder

IDS = list(range(5, 25))


@pytest.mark.parametrize("format", ["onnx", "ort"])
def test_tokens_and_logits_are_the_same(
    format: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = make_model("llama", num_hidden_layers=2)
    export_onnx(source, tmp_path / "out", "fp32", format=format)
    plain = OnnxDecoder(tmp_path / "out", 1)
    bound = ProviderDecoder(tmp_path / "out", 1, providers_for("auto"))
    assert (bound.provider, bound.place, bound.in_place) == ("cpu", "cpu", format == "ort")
    assert [*bound.stream(IDS, 12)] == [*plain.stream(IDS, 12)]
    caches = [decoder.open_cache(1, len(IDS)) for decoder in (plain, bound)]
    for tokens in (IDS[:15], IDS[15:16], IDS[16:]):
        step = np.asarray([tokens], np.int64)
        mask = np.ones((1, caches[0].length + len(tokens)), np.int64)
        logits = [d.step(step, mask, c) for d, c in zip((plain, bound), caches, strict=True)]
        np.testing.assert_array_equal(*logits)
    assert caches[0].length == caches[1].length == len(IDS)


def test_a_provider_that_is_not_there() -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert providers_for("auto") == providers_for("cpu") == ("CPUExecutionProvider",)
    for name in ("cuda", "tensorrt"):
        with pytest.raises(UsageError, match="ExecutionProvider") as caught:
            providers_for(name)
        assert "--provider cpu" in caught.value.hint
