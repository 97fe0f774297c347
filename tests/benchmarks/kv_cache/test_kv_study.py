"""A rounded KV cache: its values, no change without rounding, and prefill equal to decode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DENSE
from torch import Tensor

from edgewright.benchmarks.kv_cache.options import KvOptions
from edgewright.benchmarks.kv_cache.rounded_cache import (
    CacheBackend,
    KvScheme,
    cache_bytes,
    calibrated_scales,
    round_states,
)
from edgewright.benchmarks.kv_cache.study import kv_study
from edgewright.benchmarks.tasks.backends import TorchBackend
from edgewright.checkpoints.config import read_architecture
from edgewright.console import progress
from edgewright.errors import UsageError
from edgewright.generation.decoding import Decoding

MakeModel = Callable[..., Path]
IDS = torch.arange(1, 41).view(2, 20) * 11 % 500 + 1


def states(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 5, 8, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [0.1, 1.0, 10.0]
    ).view(1, 3, 1, 1)


# What rounding does


@pytest.mark.parametrize("bits", [4, 8])
def test_dynamic_scales_are_each_tokens_and_heads_own(bits: int) -> None:
    x, top = states(), 2 ** (bits - 1) - 1
    rounded = round_states(x, bits)
    for vector, result in zip(x.flatten(0, 2), rounded.flatten(0, 2), strict=True):
        scale = (vector.abs().max() / top).half().float()
        torch.testing.assert_close(
            result,
            torch.stack([(v / scale).round().clamp(-top, top) * scale for v in vector]),
            rtol=0,
            atol=0,
        )
        assert len(set(result.tolist())) > 1


@pytest.mark.parametrize("bits", [4, 8])
def test_static_scales_are_each_heads_and_clip(bits: int) -> None:
    x, top = states(), 2 ** (bits - 1) - 1
    largest = x.abs().amax((0, 2, 3))
    rounded = round_states(x, bits, largest)
    step = (largest / top).half().float().view(1, 3, 1, 1)
    assert float(((rounded - x).abs() / step).max()) <= 0.51 * top / (top - 1)
    assert float((rounded / step - (rounded / step).round()).abs().max()) < 1e-4
    beyond = round_states(3 * x, bits, largest)
    torch.testing.assert_close(beyond.abs().amax((0, 2, 3)), top * step.flatten())
    assert round_states(x.bfloat16(), bits).dtype == torch.bfloat16
    assert not bool(round_states(torch.zeros(1, 3, 2, 8), bits).any())


def test_finer_is_nearer() -> None:
    x = states()
    largest = x.abs().amax((0, 2, 3))
    errors = [
        float((round_states(x, bits, of) - x).square().mean())
        for bits, of in ((8, None), (8, largest), (4, None), (4, largest))
    ]
    assert errors == sorted(errors)
    assert errors[2] > 50 * errors[0]


# The cache in the model


@pytest.fixture(scope="module", params=DENSE)
def backend(request: pytest.FixtureRequest, make_model: MakeModel) -> TorchBackend:
    return TorchBackend(make_model(request.param))


def test_a_cache_that_rounds_nothing_changes_nothing(backend: TorchBackend) -> None:
    exact, mask = CacheBackend(backend, KvScheme(), []), torch.ones_like(IDS)
    torch.testing.assert_close(
        exact.logits(IDS, mask), backend.logits(IDS, mask), rtol=1e-4, atol=1e-4
    )
    with progress("answering", 2 * len(IDS)) as bar:
        answers = [one.generate(IDS.tolist(), Decoding(6, [0]), bar) for one in (exact, backend)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("dynamic", [True, False])
def test_decoding_token_by_token_sees_the_cache_of_one_pass(
    backend: TorchBackend, dynamic: bool
) -> None:
    """Rounding by token does not depend on later tokens, so prefill and decode agree."""
    rounding = CacheBackend(
        backend, KvScheme(4, dynamic), calibrated_scales(backend.model, list(IDS))
    )
    whole, cache = rounding.logits(IDS, torch.ones_like(IDS)), rounding._cache()
    with torch.no_grad():
        steps = [
            backend.model(input_ids=IDS[:, i : i + 1], past_key_values=cache, use_cache=True).logits
            for i in range(IDS.shape[1])
        ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-3, atol=2e-3)
    assert not torch.allclose(whole, backend.logits(IDS, torch.ones_like(IDS)), atol=1e-2)


def test_what_is_cached_is_on_the_grid(backend: TorchBackend) -> None:
    rounding = CacheBackend(backend, KvScheme(4), [])
    cache = rounding._cache()
    with torch.no_grad():
        backend.model(input_ids=IDS, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        for held in (layer.keys, layer.values):
            torch.testing.assert_close(round_states(held, 4), held, rtol=1e-3, atol=1e-5)
            assert all(len(set(vector.tolist())) <= 15 for vector in held.flatten(0, 2)[:10])


def test_calibration_finds_the_largest_of_each_head(make_model: MakeModel) -> None:
    backend = TorchBackend(make_model("llama"))
    largest = calibrated_scales(backend.model, list(IDS))
    cache = CacheBackend(backend, KvScheme(), [])._cache()
    with torch.no_grad():
        backend.model(input_ids=IDS, past_key_values=cache, use_cache=True)
    assert len(largest) == 3
    for (keys, values), layer in zip(largest, cache.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys.abs().amax((0, 2, 3)))
        torch.testing.assert_close(values, layer.values.abs().amax((0, 2, 3)))


# Bytes


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("context", [8, 1000])
def test_bytes_of_a_cache(family: str, context: int, make_model: MakeModel) -> None:
    model = read_architecture(make_model(family))
    plain, static, dynamic, four = (
        cache_bytes(model, s, context)
        for s in (KvScheme(), KvScheme(8, False), KvScheme(8), KvScheme(4))
    )
    assert plain == model.state_bytes(context)
    assert (
        static == plain // 2 + 3 * 2 * 2 * 2
    )  # three layers, keys and values, two heads, a float16 each
    assert dynamic == plain // 2 + plain // 64  # heads of 64: one float16 to 64 of them
    assert four == plain // 4 + plain // 64


# The study


def test_the_study(make_model: MakeModel, text_file: Path, context: Any) -> None:
    model = make_model("qwen3")
    options = KvOptions(
        perplexity=(f"text:{text_file}",),
        windows=4,
        seq_len=32,
        tasks=("reasoning",),
        limit=3,
        max_new_tokens=4,
        contexts=(64, 8),
    )
    study = kv_study(model, options, context.calibration.rows(model, 0))
    caches = {cache["name"]: cache for cache in study["caches"]}
    assert list(caches) == ["fp16", "int8-static", "int8-dynamic", "int4-static", "int4-dynamic"]
    label = (
        "story.txt"
        if "kl/story.txt" in caches["fp16"]["metrics"]
        else next(k for k in caches["fp16"]["metrics"] if k.startswith("kl/"))[3:]
    )
    kl = {name: cache["metrics"][f"kl/{label}"] for name, cache in caches.items()}
    assert kl["fp16"] == pytest.approx(0, abs=1e-6)
    assert (
        kl["fp16"] < kl["int8-dynamic"] < kl["int8-static"] < kl["int4-dynamic"] < kl["int4-static"]
    )
    assert caches["fp16"]["metrics"][f"top1_agreement/{label}"] == 1
    assert all(cache["metrics"]["accuracy/reasoning/n"] == 3 for cache in caches.values())
    assert list(caches["fp16"]["bytes"]) == ["8", "64"]
    assert caches["int8-static"]["ratio"] == pytest.approx(0.5, abs=0.01)
    assert study["context"]["calibration_rows"] == 6
    json.dumps(study)


def test_a_study_of_nothing_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        kv_study(make_model("llama"), KvOptions(), [])
    with pytest.raises(UsageError, match="not a number of tokens"):
        kv_study(make_model("llama"), KvOptions(tasks=("reasoning",), contexts=(0,)), [])
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(UsageError, match="whose cache cannot be changed"):
        kv_study(tmp_path, KvOptions(tasks=("reasoning",)), [])


def test_by_the_command_line(
    cli: Callable[..., tuple[int, str, str]], make_model: MakeModel, text_file: Path
) -> None:
    source = f"text:{text_file}"
    common = [
        "kv-study",
        make_model("llama"),
        "--calibration",
        source,
        "--samples",
        2,
        "--seq-len",
        16,
        "--windows",
        2,
    ]
    code, out, _ = cli(
        *common,
        "--perplexity",
        source,
        "--bits",
        "8",
        "--scales",
        "dynamic",
        "--context",
        128,
        "--context",
        16,
        "--json",
    )
    assert code == 0
    assert [cache["name"] for cache in json.loads(out)["caches"]] == ["fp16", "int8-dynamic"]
    code, out, _ = cli(*common, "--perplexity", source, "--bits", "4")
    assert code == 0
    assert "int4-static" in out
    assert "MB at 2,048" in out
    for wrong, named in (
        (("--bits", "5"), "bits"),
        (("--bits", "x"), "bits"),
        (("--scales", "mean"), "scales"),
    ):
        code, _, err = cli(*common, "--perplexity", source, *wrong)
        assert code == 2
        assert named in err
    assert cli(*common)[0] == 2
