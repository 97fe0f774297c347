"""`bench URL` against llama.cpp's own server: its tokens exactly, its times, and its answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgewright.benchmarks.endpoint.latency import bench_server
from edgewright.benchmarks.endpoint.measure import bench_url
from edgewright.benchmarks.endpoint.options import LoadOptions
from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.measurement_files import answers_file
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.perf.endpoint import compared, llama_served
from edgewright.steps.context import CalibrationData, StepContext

from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("load") / "gguf"
    options = ExportOptions.model_validate({"format": "gguf", "precision": "fp16"})
    context = StepContext(CalibrationData(samples=8, seq_len=64))
    export(options, Path(model_path(BUILTIN_MODEL)), out, context)
    return out / "model.gguf"


def test_llama_cpp_counts_the_same(file: Path) -> None:
    options = LoadOptions(requests=10, prompt_tokens=32, output_tokens=24)
    with llama_served(environment("llama"), file, 1) as url:
        found = compared(url, options)
    assert found["prompt tokens"]["client"] == found["prompt tokens"]["server"] == 320
    assert found["output tokens"]["client"] == found["output tokens"]["server"] == 240
    # No client sees a first token before the server has it.
    assert found["TTFT ms"]["client"] >= found["TTFT ms"]["server"]


@pytest.mark.parametrize("api", ["completions", "chat"])
def test_llama_cpp_is_measured_without_notes(file: Path, api: str) -> None:
    options = LoadOptions(
        concurrency=(1, 4),
        request_rate=(20.0,),
        requests=8,
        prompt_tokens=48,
        output_tokens=16,
        api=api,  # pyright: ignore[reportArgumentType]
    )
    with llama_served(environment("llama"), file, 1) as url:
        found = bench_server(url, options, None)
    for load in ("concurrency1", "concurrency4", "rate20"):
        assert found["metrics"][f"failed_requests/{load}"] == 0
        details = found["context"][f"load/{load}"]
        assert details["output_tokens"] == 16
        assert details["tokens_counted"] == "usage"
        assert details["prompt_tokens"] == 48
    assert found["context"]["endpoint"]["ignore_eos"] is True


def test_llama_cpp_is_asked_what_the_checkpoint_is(file: Path, tmp_path: Path) -> None:
    """Greedy answers in float16 and float32 are mostly equal.

    llama.cpp leaves special tokens out, as the model's `</think>`, so that its score is another.
    """
    options = EvaluateOptions(tasks=("reasoning",), limit=20, latency=None)
    here = [one["text"] for one in measure(Path(model_path(BUILTIN_MODEL)), options).answers]
    with llama_served(environment("llama"), file, 1) as url:
        found = bench_url(url, options, LoadOptions(), tmp_path / "new.json")
    kept = answers_file(tmp_path / "new.json").read_text().splitlines()
    there = [json.loads(line)["text"] for line in kept]
    same = [_bare(one) == _bare(other) for one, other in zip(here, there, strict=True)]
    assert sum(same) >= 16
    assert found["metrics"]["accuracy/reasoning/n"] == 20


def _bare(text: str) -> str:
    """A text without tags, special tokens and spaces."""
    return re.sub(r"</?think>|<\|\w+\|>|\s", "", text)
