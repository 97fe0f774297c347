"""An artifact whose KV cache is in 8 bits: batches, reused beginnings, and the server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgewright.export.onnx.runtime import OnnxDecoder
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext
from edgewright.targets.serving.batcher import Batcher
from edgewright.targets.serving.keys import Keys
from edgewright.targets.serving.service import Service

from server_helpers import ask, prompts, running  # isort: skip
from test_prefix_reuse import BASE, answered, cold  # isort: skip


@pytest.fixture(scope="module", params=["onnx", "ort"])
def artifact(
    request: pytest.FixtureRequest,
    make_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """With a cache that is copied by every step, or written in place."""
    out = tmp_path_factory.mktemp("int8") / "tiny"
    context = StepContext(CalibrationData(samples=8, seq_len=64))
    options = ExportOptions(format=request.param, kv_cache="int8")
    export(options, make_model("llama", num_hidden_layers=2), out, context)
    return out


def test_reused_beginnings_are_integers_and_give_the_answers_of_a_cold_start(
    artifact: Path,
) -> None:
    batcher = Batcher(OnnxDecoder(artifact, 1), 4, context=256, prefix_bytes=10**7)
    try:
        mixed = [BASE, *(ids + BASE[:i] for i, ids in enumerate(prompts(3)))]
        together = answered(batcher, *mixed)
        assert [answer.tokens for answer in together] == [cold(artifact, ids) for ids in mixed]
        longer = [*BASE, 9, 8, 7]
        (again,) = answered(batcher, longer)
        assert (again.tokens, again.generation.cached) == (cold(artifact, longer), len(BASE))
        found = batcher.prefixes.find(longer, again.generation.owner)
        assert found is not None and {one.dtype for one in found.states} == {np.dtype(np.int8)}
    finally:
        batcher.close()


def test_the_server_answers(artifact: Path) -> None:
    keys = Keys(["k-0123456789abcdef"])
    with running(Service(artifact, 1, max_batch=2, prefix_cache_mb=1), keys) as server:
        for cached in (0, len(BASE) - 1):
            body = {"prompt": BASE, "max_tokens": 3, "seed": 1, "temperature": 0}
            header = {"Authorization": "Bearer k-0123456789abcdef"}
            reply = ask(server.port, "/v1/completions", body, **header)
            assert reply.status == 200, reply.text
            usage = reply.json["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == cached
