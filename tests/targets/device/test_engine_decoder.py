"""Tokens of an engine against those of torch and ONNX Runtime, on doubles of TensorRT and CUDA."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_double as double
from cudart_double import Cudart
from engine_fixtures import MakeDecoder, rtx_double

from edgewright.errors import UsageError
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.sampling import Sampling
from edgewright.export.onnx.token_loop import stream
from edgewright.targets.device import engine_cache

pytest_plugins = ["engine_fixtures"]

Exported = Callable[..., Path]
MakeModel = Callable[..., Path]
DEMO = Path(__file__).parents[3] / "demo" / "model"
SMALL = {"num_hidden_layers": 2, "intermediate_size": 64}
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26]


@pytest.fixture(autouse=True)
def small_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms that a short test grows through."""
    monkeypatch.setattr(engine_cache, "SMALLEST_ROOM", 8)


@functools.cache
def torch_model(checkpoint: Path) -> Any:
    """Stock transformers' model."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def greedy(checkpoint: Path, ids: list[int], count: int) -> list[int]:
    """Torch's most likely tokens, each from the whole text."""
    import torch

    model = torch_model(checkpoint)
    text = list(ids)
    with torch.no_grad():
        for _ in range(count):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
    return text[len(ids) :]


@pytest.mark.parametrize("last", [False, True])
def test_the_built_in_model_gives_torchs_tokens(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart, last: bool
) -> None:
    decoder = decoder_of(exported(DEMO, "fp32", last))
    expected = greedy(DEMO, PROMPT, 40)
    assert [*stream(decoder, PROMPT, 40)] == expected
    assert [*stream(decoder, PROMPT[:3], 9)] == greedy(DEMO, PROMPT[:3], 9), "a second answer"
    assert cudart.launches > 30


def test_most_steps_replay_a_graph_of_their_room(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart
) -> None:
    decoder = decoder_of(exported(DEMO))
    made = [*stream(decoder, PROMPT, 40)]
    engine = decoder._session._engine
    # Rooms are 8, 16, 32, 56 (the longest past of a prefill pass) and 63. Eight is that of the
    # tokens before the first answer. After the prompt, the cache has 13 slots.
    rooms = [context.shapes["past_key_values.0.key"][2] for context in engine.contexts[1:]]
    assert rooms == [8, 16, 32, 56]
    assert [context.captures for context in engine.contexts] == [0, 1, 1, 1, 1]
    assert decoder.details["graphs"] == "one for each room"
    steps = len(made) - 1
    assert cudart.launches == steps - 3, "the first step in a room captures its graph"
    before = cudart.copied_rows
    launched = cudart.launches
    assert [*stream(decoder, PROMPT, 40)] == made
    assert cudart.launches == launched + steps
    grown = 1 + 2  # after the prompt, and from room to room
    passes = 2 + steps
    assert cudart.copied_rows - before == passes + grown
    assert len(engine.contexts) == 5


def test_what_cannot_be_captured_runs_by_itself(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart
) -> None:
    cudart.failing = "cudaGraphInstantiateWithFlags"
    decoder = decoder_of(exported(DEMO))
    assert decoder.details["graphs"].startswith("none: cudaGraphInstantiateWithFlags failed")
    assert [*stream(decoder, PROMPT, 40)] == greedy(DEMO, PROMPT, 40)
    assert cudart.launches == 0


def test_a_step_copies_its_new_rows_only(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart, monkeypatch: Any
) -> None:
    decoder = decoder_of(exported(DEMO))
    cache = decoder.open_cache(1, 30)
    decoder.step(np.array([PROMPT]), np.ones((1, 12), np.int64), cache)
    copies: list[tuple[int, ...]] = []
    copy = decoder._cuda.copy_rows
    monkeypatch.setattr(
        decoder._cuda, "copy_rows", lambda *sizes: (copies.append(sizes), copy(*sizes))
    )
    decoder.step(np.array([[1]]), np.ones((1, 13), np.int64), cache)
    ((_, to_pitch, _, pitch, width, rows),) = copies
    vector = 64 * 4
    assert (to_pitch, pitch, width, rows) == (16 * vector, 17 * vector, vector, 4 * 2 * 2)
    assert cache.length == 13


@pytest.mark.parametrize("family", ["gemma3_text", "mistral", "qwen2"])
def test_a_cache_without_gaps(
    family: str, make_model: MakeModel, exported: Exported, decoder_of: MakeDecoder, cudart: Any
) -> None:
    checkpoint = make_model(family)
    artifact = exported(checkpoint)
    decoder = decoder_of(artifact, gapless=True)
    assert [*stream(decoder, PROMPT, 40)] == greedy(checkpoint, PROMPT, 40)
    assert cudart.launches == cudart.copied_rows == 0
    assert decoder.details["graphs"] == "none: a layer has a window"


def test_a_window_would_see_the_gaps(
    make_model: MakeModel, exported: Exported, decoder_of: MakeDecoder
) -> None:
    checkpoint = make_model("mistral", sliding_window=6)
    decoder = decoder_of(exported(checkpoint), gapless=False)
    assert [*stream(decoder, PROMPT, 40)] != greedy(checkpoint, PROMPT, 40)


def test_half_precision(
    make_model: MakeModel, exported: Exported, decoder_of: MakeDecoder, cudart: Any
) -> None:
    artifact = exported(make_model("llama", **SMALL), "fp16")
    decoder = decoder_of(artifact)
    assert decoder._session.tensors["past_key_values.0.key"].dtype == "HALF"
    assert [*stream(decoder, PROMPT, 30)] == [*OnnxDecoder(artifact, 1).stream(PROMPT, 30)]


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_odd_sizes_are_aligned(
    kv_heads: int, make_model: MakeModel, exported: Exported, decoder_of: MakeDecoder
) -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": kv_heads, "head_dim": 24}
    checkpoint = make_model("llama", **SMALL, **sizes)
    decoder = decoder_of(exported(checkpoint), prompt=5)
    assert [*stream(decoder, PROMPT, 30)] == greedy(checkpoint, PROMPT, 30)


def test_an_engine_for_a_batch(exported: Exported, decoder_of: MakeDecoder) -> None:
    decoder = decoder_of(exported(DEMO), batch=3)
    assert [*stream(decoder, PROMPT, 20)] == greedy(DEMO, PROMPT, 20)


def test_tensorrt_for_rtx_captures_by_itself(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart
) -> None:
    decoder = decoder_of(exported(DEMO), trt=rtx_double())
    assert decoder.provider == "tensorrt_rtx"
    assert [*stream(decoder, PROMPT, 40)] == greedy(DEMO, PROMPT, 40)
    assert cudart.launches == 0
    assert len(decoder._session._engine.contexts) == 2
    assert decoder.details["graphs"] == "captured by TensorRT for RTX"


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17, 56, 57, 62])
def test_prompts_of_all_lengths(
    count: int, exported: Exported, decoder_of: MakeDecoder, cudart: Cudart
) -> None:
    decoder = decoder_of(exported(DEMO))
    for context in decoder._session._engine.contexts:
        context.runs.clear()
    ids = [(7 * one + 3) % 500 for one in range(count)]
    assert [*stream(decoder, ids, 2)] == greedy(DEMO, ids, 2)
    runs = [run for context in decoder._session._engine.contexts for run in context.runs]
    tokens = [run["input_ids"][1] for run in runs]
    assert sum(tokens) == count + 1
    assert max(tokens) <= 8
    last = count - 56 + 7  # a past of 56 is the longest for a pass of eight
    assert len(tokens) <= -(-count // 8) + 1 + max(last, 0)


def test_what_does_not_fit_is_one_message(exported: Exported, decoder_of: MakeDecoder) -> None:
    decoder = decoder_of(exported(DEMO))
    assert len([*stream(decoder, PROMPT, 64 - len(PROMPT))]) == 52
    with pytest.raises(UsageError, match=r"65 tokens of prompt and answer.*built for 64") as caught:
        next(stream(decoder, PROMPT, 65 - len(PROMPT)))
    assert "--context" in caught.value.hint
    cache = decoder.open_cache(1)
    with pytest.raises(UsageError, match="built for 64"):
        decoder.step(np.ones((1, 64), np.int64), np.ones((1, 64), np.int64), cache)


def test_sampling_is_that_of_onnx_runtime(exported: Exported, decoder_of: MakeDecoder) -> None:
    artifact = exported(DEMO)
    decoder = decoder_of(artifact)
    other = OnnxDecoder(artifact, 1)
    drawn: set[tuple[int, ...]] = set()
    for seed in range(6):
        sampling = Sampling(1.5, 0.9, seed)
        made = [*stream(decoder, PROMPT, 12, (), sampling)]
        assert (
            made
            == [*other.stream(PROMPT, 12, (), sampling)]
            == [*stream(decoder, PROMPT, 12, (), sampling)]
        )
        drawn.add(tuple(made))
    assert len(drawn) == 6


def test_first_tokens_are_drawn_from_the_models_distribution(
    exported: Exported, decoder_of: MakeDecoder
) -> None:
    decoder = decoder_of(exported(DEMO))
    logits = decoder.step(
        np.array([PROMPT[:4]]), np.ones((1, 4), np.int64), decoder.open_cache(1, 5)
    )[0, -1].astype(np.float64)
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    draws = 400
    counts = np.zeros(len(shares))
    for seed in range(draws):
        counts[next(stream(decoder, PROMPT[:4], 1, (), Sampling(1.0, 1.0, seed)))] += 1
    likely = np.argsort(-shares)[:5]
    spread = 5 * np.sqrt(shares[likely] * (1 - shares[likely]) / draws)
    assert (np.abs(counts[likely] / draws - shares[likely]) < spread).all()


def test_an_end_token_is_the_last(exported: Exported, decoder_of: MakeDecoder) -> None:
    decoder = decoder_of(exported(DEMO))
    made = [*stream(decoder, PROMPT, 20)]
    end = made[5]
    assert [*stream(decoder, PROMPT, 20, [end])] == made[: made.index(end) + 1]


def test_memory_is_recorded(
    exported: Exported, decoder_of: MakeDecoder, cudart: Cudart, tmp_path: Path
) -> None:
    decoder = decoder_of(exported(DEMO))
    positions = 64 * 2 * 2 * 4 * 64 * 4  # context, parts, kv heads, layers, head_dim, bytes
    memory = decoder.details["memory"]
    assert memory["cache_bytes"] == 2 * positions
    assert memory["engine_bytes"] == (tmp_path / "model.engine").stat().st_size
    assert memory["activation_bytes"] == double.ICudaEngine.device_memory_size_v2
    assert memory["device_bytes"] == cudart.memory.size > 2 * positions
    [*stream(decoder, PROMPT, 40)]
    assert memory["device_bytes"] == cudart.memory.size, "nothing more while it answers"
