"""Continuous batching in the server: rows do not touch each other, and a place is freed at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.onnx.sampling import Sampling
from edgewright.generation import memory
from edgewright.targets.serving.batcher import Batcher
from edgewright.targets.serving.sequence import Generation, QueueFull, Stopped, Token

from server_helpers import prompts, until  # isort: skip

pytest_plugins = ["serving_fixtures"]


class Answer:
    """Collects what a generation emits."""

    def __init__(self, ids: list[int], max_tokens: int, **sampling: Any) -> None:
        self.tokens: list[int] = []
        self.reason: Any = None
        self.done = threading.Event()
        self.generation = Generation(
            ids, max_tokens, frozenset([0]), Sampling(**sampling), self.take
        )

    def take(self, item: Any) -> None:
        if isinstance(item, Token):
            self.tokens.append(item.id)
        else:
            self.reason = item
            self.done.set()


@pytest.fixture
def batcher(served: Path) -> Iterator[Batcher]:
    running = Batcher(OnnxDecoder(served, 1), max_batch=5)
    yield running
    running.close()


def test_rows_that_join_and_leave_do_not_touch_each_other(served: Path, batcher: Batcher) -> None:
    alone, answers = OnnxDecoder(served, 1), []
    for number, ids in enumerate(prompts(17)):
        answers.append(Answer(ids, 3 + 5 * number % 23))
        batcher.submit(answers[-1].generation)
        if number % 4 == 3:
            answers[-1].done.wait(20)  # so that some join a batch that runs, and some an empty one
    for answer in answers:
        assert answer.done.wait(20)
        ids = np.array([answer.generation.ids])
        expected = alone.generate(ids, np.ones_like(ids), answer.generation.max_tokens, [0])[
            0
        ].tolist()
        assert answer.tokens == [token for token in expected if token != 0]
        assert answer.reason == ("stop" if 0 in expected else "length")
    assert batcher.steps < sum(len(answer.tokens) for answer in answers)


def test_sampling_is_the_seeds_and_nobody_elses(batcher: Batcher) -> None:
    ids = prompts(1)[0]
    first = [Answer(ids, 12, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    for answer in first:
        batcher.submit(answer.generation)
    assert all(answer.done.wait(20) for answer in first)
    assert first[0].tokens == first[1].tokens != first[2].tokens


def test_a_cancelled_row_leaves(batcher: Batcher) -> None:
    long = Answer(prompts(1)[0], 100_000)
    batcher.submit(long.generation)
    while len(long.tokens) < 3:
        time.sleep(0.001)
    long.generation.cancelled.set()
    assert long.done.wait(20)
    assert len(long.tokens) < 100_000


def test_a_failing_decoder_fails_its_requests_and_serves_the_next(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = OnnxDecoder(served, 1)
    batcher = Batcher(decoder)
    bad = Answer([10**6], 4)  # outside the vocabulary: ONNX Runtime's own error
    batcher.submit(bad.generation)
    assert bad.done.wait(20)
    assert isinstance(bad.reason, Exception)
    good = Answer([5, 6], 4)
    batcher.submit(good.generation)
    assert good.done.wait(20)
    assert good.reason in ("stop", "length")
    batcher.close()


def test_too_many_waiting_are_turned_away(served: Path) -> None:
    batcher = Batcher(OnnxDecoder(served, 1), max_batch=1, max_waiting=2)
    running = [Answer([5], 100_000) for _ in range(4)]
    with pytest.raises(QueueFull):
        for answer in running:
            batcher.submit(answer.generation)
        time.sleep(0.05)
        batcher.submit(running[-1].generation)
        batcher.submit(running[-1].generation)
    for answer in running:
        answer.generation.cancelled.set()
    batcher.close()


def answer_alone(served: Path, ids: list[int], max_tokens: int) -> list[int]:
    """The tokens of a prompt that is prefilled at once and has the decoder for itself."""
    row = np.array([ids])
    found = OnnxDecoder(served, 1).generate(row, np.ones_like(row), max_tokens, [0])[0].tolist()
    return [token for token in found if token != 0]


def test_a_long_prompt_is_prefilled_between_the_steps_of_others(
    served: Path, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CHUNK_TOKENS", 4)
    short, long = Answer([5, 6, 7], 150), Answer(prompts(1)[0][:1] + [9] * 90, 5)
    batcher.submit(short.generation)
    until(lambda: len(short.tokens) >= 2)
    before = len(short.tokens)  # now: a test that waits for the prefill to begin may see it late
    batcher.submit(long.generation)
    until(lambda: bool(long.tokens))
    assert len(short.tokens) >= before + 20  # a step after each of 23 passes
    assert short.done.wait(60)
    assert long.done.wait(60)
    for answer in (short, long):
        ids = list(answer.generation.ids)
        assert answer.tokens == answer_alone(served, ids, answer.generation.max_tokens)


def test_a_prompt_that_fails_does_not_touch_the_others(served: Path, batcher: Batcher) -> None:
    good = Answer([5, 6, 7], 150)
    batcher.submit(good.generation)
    until(lambda: len(good.tokens) >= 2)
    bad = Answer([10**6, 5], 4)  # its prefill is outside of the vocabulary
    batcher.submit(bad.generation)
    assert bad.done.wait(60)
    assert isinstance(bad.reason, Exception)
    assert good.done.wait(60)
    assert good.tokens == answer_alone(served, [5, 6, 7], 150)


def test_whoever_waits_and_is_cancelled_makes_room_at_once(
    served: Path, held: threading.Event
) -> None:
    batcher = Batcher(OnnxDecoder(served, 1), max_batch=1, max_waiting=2)
    answers = [Answer([5, 6], 2) for _ in range(4)]
    batcher.submit(answers[0].generation)
    until(lambda: batcher.running == 1)
    for answer in answers[1:3]:
        batcher.submit(answer.generation)
    with pytest.raises(QueueFull):
        batcher.submit(answers[3].generation)
    batcher.cancel(answers[1].generation)
    batcher.submit(answers[3].generation)
    assert batcher.waiting == 2
    batcher.cancel(answers[0].generation)  # during its prefill
    held.set()
    assert all(answer.done.wait(60) for answer in answers if answer is not answers[1])
    assert (answers[0].tokens, answers[1].tokens) == ([], [])
    assert [len(answer.tokens) for answer in answers[2:]] == [2, 2]
    batcher.close()


def test_closing_ends_everything(served: Path, held: threading.Event) -> None:
    batcher = Batcher(OnnxDecoder(served, 1), max_batch=1, max_waiting=9)
    answers = [Answer([5, 6], 50) for _ in range(5)]
    for answer in answers:
        batcher.submit(answer.generation)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closed)
    held.set()
    closing.join()
    assert all(isinstance(answer.reason, Stopped) for answer in answers)
    with pytest.raises(Stopped):
        batcher.submit(answers[0].generation)


def test_fewer_rows_run_if_their_caches_do_not_fit(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MOST_ROWS", 3)
    batcher = Batcher(OnnxDecoder(served, 1), max_batch=16, context=300)
    answers = [Answer([5, 6], 20) for _ in range(12)]
    for answer in answers:
        batcher.submit(answer.generation)
    most = 0
    while not all(answer.done.is_set() for answer in answers):
        most = max(most, batcher.running)
        time.sleep(0.001)
    assert 1 <= most <= 3
    batcher.close()
