"""A prompt that begins like an earlier one starts from its cache, and the answer is the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgewright.export.onnx.export import export_onnx
from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.generation import memory
from edgewright.targets.serving.batcher import Batcher
from edgewright.targets.serving.keys import Keys
from edgewright.targets.serving.service import Service

from server_helpers import ask, prompts, running, until  # isort: skip
from test_batcher import Answer  # isort: skip

BASE = [(31 * i + 7) % 400 + 20 for i in range(60)]


@pytest.fixture(scope="module", params=["onnx", "ort"])
def both(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An artifact whose cache is copied by every step, and one whose cache is written in place."""
    out = tmp_path_factory.mktemp("prefix") / "tiny"
    export_onnx(make_model("llama", num_hidden_layers=2), out, "fp32", format=request.param)
    assert OnnxDecoder(out, 1).in_place == (request.param == "ort")
    return out


@pytest.fixture
def batcher(both: Path) -> Iterator[Batcher]:
    running = Batcher(OnnxDecoder(both, 1), 4, context=256, prefix_bytes=10**7)
    yield running
    running.close()


def answered(batcher: Batcher, *prompts: list[int], **sampling: float) -> list[Answer]:
    answers = [Answer(ids, 12, **sampling) for ids in prompts]
    batcher.submit(*[answer.generation for answer in answers])
    for answer in answers:
        assert answer.done.wait(120)
    return answers


def cold(artifact: Path, ids: list[int]) -> list[int]:
    row = np.array([ids])
    found = OnnxDecoder(artifact, 1).generate(row, np.ones_like(row), 12, [0])[0].tolist()
    return [token for token in found if token != 0]


def test_the_answer_is_that_of_a_cold_start(both: Path, batcher: Batcher) -> None:
    (first,) = answered(batcher, BASE)
    assert (first.tokens, first.generation.cached) == (cold(both, BASE), 0)
    turns = [*BASE, *first.tokens, 9, 8, 7]
    for ids, cached in (
        (BASE, len(BASE) - 1),
        (turns, len(BASE) + len(first.tokens) - 1),
        (turns, len(turns) - 1),
        ([*BASE[:30], 5, 6], 30),
        ([*BASE[:10], *range(50, 80)], 0),
    ):
        (answer,) = answered(batcher, ids)
        assert answer.tokens == cold(both, ids)
        # The last token of an answer that is cut is not in its cache.
        assert abs(answer.generation.cached - cached) <= (ids is turns)
    assert 0 < batcher.prefixes.size <= 10**7


def test_rows_with_and_without_a_known_beginning_run_together(
    both: Path, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CHUNK_TOKENS", 16)  # long prompts need several passes
    answered(batcher, BASE)
    mixed = [ids + BASE[:i] for i, ids in enumerate(prompts(9))]
    mixed[1::2] = [BASE[: 20 + 3 * i] + ids for i, ids in enumerate(mixed[1::2])]
    answers = answered(batcher, *mixed)
    assert [answer.tokens for answer in answers] == [cold(both, ids) for ids in mixed]
    assert sum(answer.generation.cached >= 20 for answer in answers) >= 4


def test_sequences_of_one_prompt_share_its_prefill(both: Path, batcher: Batcher) -> None:
    answers = [Answer(BASE, 12, temperature=1.5, seed=seed) for seed in range(4)]
    for answer in answers:
        answer.generation.siblings = True
    batcher.submit(*[answer.generation for answer in answers])
    assert all(answer.done.wait(120) for answer in answers)
    assert [answer.generation.cached for answer in answers] == [0, 59, 59, 59]
    alone = Batcher(OnnxDecoder(both, 1), 4, context=256)
    for seed, answer in enumerate(answers):
        (expected,) = answered(alone, BASE, temperature=1.5, seed=seed)
        assert answer.tokens == expected.tokens
    alone.close()


def test_usage_says_how_much_was_known_and_keys_share_nothing(both: Path) -> None:
    keys = ["k-0123456789abcdef", "k-5b1d0c7e9f3a2468"]
    with running(Service(both, 1, max_batch=2, prefix_cache_mb=1), Keys(keys)) as server:

        def cached(key: str, **more: object) -> int:
            body = {"prompt": BASE, "max_tokens": 3, "seed": 1, **more}
            path = "/v1/completions"
            reply = ask(server.port, path, body, Authorization=f"Bearer {key}")
            assert reply.status == 200, reply.text
            return reply.json["usage"]["prompt_tokens_details"]["cached_tokens"]

        assert [cached(keys[0]), cached(keys[0]), cached(keys[1]), cached(keys[1])] == [
            0,
            59,
            0,
            59,
        ]
        assert cached(keys[0], n=2) == 59
        until(lambda: server.service.batcher.running == 0)
        assert 0 < server.service.batcher.prefixes.size <= 10**6


def test_nothing_is_kept_without_memory_for_it(both: Path) -> None:
    batcher = Batcher(OnnxDecoder(both, 1), 2, context=256)
    for _ in range(2):
        assert answered(batcher, BASE)[0].generation.cached == 0
    assert batcher.prefixes.size == 0
    batcher.close()
