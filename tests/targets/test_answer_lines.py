"""`run.sh answer` on a device: the line protocol, its answers and scores, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.targets import load_target
from edgewright.targets.bundle import make_bundle, write_bundle

pytest_plugins = ["deploy_fixtures"]

IDS = [3, 14, 15, 92, 65]


@pytest.fixture(scope="module")
def bundle(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, as it lies on a device."""
    return write_bundle(
        make_bundle(artifact, load_target("cpu")), tmp_path_factory.mktemp("device") / "bundle"
    )


@contextmanager
def program(bundle: Path, python: Path) -> Iterator[subprocess.Popen[str]]:
    """The running program, which has loaded the model."""
    with subprocess.Popen(
        [str(bundle / "run.sh"), "--threads", "1", "answer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHON": str(python)},
    ) as process:
        yield process
        process.kill()


def ask(process: subprocess.Popen[str], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def answers(process: subprocess.Popen[str], last: str) -> list[dict[str, Any]]:
    """The messages up to the one with this key."""
    assert process.stdout is not None
    found: list[dict[str, Any]] = []
    while not found or last not in found[-1]:
        found.append(json.loads(process.stdout.readline()))
    return found


def test_answers_and_scores(bundle: Path, python: Path, artifact: Path) -> None:
    decoder = OnnxDecoder(artifact, 1)
    expected = [*decoder.stream(IDS, 6)]
    with program(bundle, python) as process:
        (ready,) = answers(process, "ready")
        assert ready["ready"]["provider"] == "cpu"
        ask(process, {"ids": IDS, "new_tokens": 6, "ends": []})
        *tokens, done = answers(process, "done")
        assert [message["token"] for message in tokens] == expected
        assert len(done["done"]["token_s"]) == 5
        assert min(done["done"]["first_s"], *done["done"]["token_s"]) > 0
        assert done["done"]["peak_rss_bytes"] > 1e6
        ask(process, {"ids": IDS, "new_tokens": 6, "ends": [expected[2]]})
        assert len(answers(process, "done")) == expected.index(expected[2]) + 2
        ask(process, {"ids": IDS, "continuation": expected, "top": 8})
        (scored,) = answers(process, "scored")
        check_scores(decoder, expected, scored["scored"])
        assert process.communicate()[0] == '{"answered": 3}\n'
        assert process.returncode == 0


def check_scores(decoder: OnnxDecoder, tokens: list[int], scored: dict[str, Any]) -> None:
    """The scores are those of the whole text at once."""
    ids = np.asarray([[*IDS, *tokens[:-1]]], np.int64)
    logits = decoder.forward(ids, np.ones_like(ids))[0][0, len(IDS) - 1 :].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert scored["not_finite"] == 0
    assert [best[0] for best in scored["ids"]] == tokens
    for at, (best, found) in enumerate(zip(scored["ids"], scored["logprobs"], strict=True)):
        assert len(best) == 8
        np.testing.assert_allclose(found, logs[at, best], atol=1e-4)


def test_it_can_be_stopped(bundle: Path, python: Path) -> None:
    with program(bundle, python) as process:
        answers(process, "ready")
        ask(process, {"ids": IDS, "new_tokens": 100_000, "ends": []})
        answers(process, "token")
        ask(process, {"stop": True})
        assert 0 < len(answers(process, "done")) < 100_000
        ask(process, {"stop": True})  # too late: there is nothing to stop
        ask(process, {"ids": IDS, "new_tokens": 2, "ends": []})
        assert len(answers(process, "done")) == 3


@pytest.mark.parametrize("end", ["stdin", "stdout"])
def test_it_ends_with_its_host(bundle: Path, python: Path, end: str) -> None:
    with program(bundle, python) as process:
        answers(process, "ready")
        ask(process, {"ids": IDS, "new_tokens": 100_000, "ends": []})
        answers(process, "token")
        handle = getattr(process, end)
        handle.close()
        process.wait(300)


@pytest.mark.parametrize(
    "request_",
    [
        {"ids": [], "new_tokens": 1, "ends": []},
        {"ids": [1 << 40], "new_tokens": 1, "ends": []},
        {"ids": [True], "new_tokens": 1, "ends": []},
        {"ids": IDS, "new_tokens": 0, "ends": []},
        {"ids": IDS, "new_tokens": 1 << 40, "ends": []},
        {"ids": IDS, "continuation": [-1], "top": 8},
        {"ids": IDS, "continuation": [1], "top": 0},
        {"other": 1},
    ],
)
def test_a_wrong_request_is_an_error(bundle: Path, python: Path, request_: dict[str, Any]) -> None:
    with program(bundle, python) as process:
        answers(process, "ready")
        ask(process, request_)
        err = process.communicate()[1]
        assert process.returncode == 2
        assert "of a request" in json.loads(err.splitlines()[-1])["error"]
