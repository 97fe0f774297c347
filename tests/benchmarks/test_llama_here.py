"""A GGUF artifact is measured in llama.cpp's server on this machine; here the server is a double.

tests/compat/test_compat_llama.py has the real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_jetson import program
from fake_llama import GOOD, PROGRAM, RULE

from edgewright.benchmarks.latency.latency import time_against, time_alone
from edgewright.benchmarks.llama_cpp import can_measure
from edgewright.benchmarks.options import EvaluateOptions, LatencyOptions
from edgewright.benchmarks.tasks.backends import open_backend
from edgewright.benchmarks.tasks.llama_backend import CHUNK, LlamaBackend
from edgewright.benchmarks.without_logits import measured_without_logits
from edgewright.checkpoints.hashing import write_provenance
from edgewright.console import progress
from edgewright.data.sources import Source
from edgewright.errors import EdgewrightError, UsageError
from edgewright.generation.decoding import Decoding
from edgewright.pipeline.named_inputs import check_inputs
from edgewright.pipeline.recipe import Recipe

END = 13
TEXT = "builtin:reasoning"
PROMPTS = [[number, number + 7, 2 * number + 1] for number in range(20)]
LATENCY = LatencyOptions(prompt=4, new_tokens=3, runs=2, batches=(2,))
RECIPE: dict[str, Any] = {
    "name": "shipped",
    "model": "builtin:tiny-reasoner",
    "calibration": {"source": TEXT},
    "evaluate": {"tasks": ["reasoning"], "perplexity": [TEXT], "limit": 8},
    "steps": [
        {"kind": "quantize", "bits": 4},
        {"kind": "export", "format": "gguf", "precision": "int4"},
    ],
}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A llama-server on PATH; returns its directory."""
    (tmp_path / "bin").mkdir()
    program(tmp_path, "llama-server", PROGRAM)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


@pytest.fixture
def off_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No program on PATH at all."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def artifact(folder: Path, **model: Any) -> Path:
    """The artifact of a "GGUF file"."""
    path = folder / "letters-gguf"
    path.mkdir()
    (path / "model.gguf").write_text(json.dumps(GOOD | model))
    config = json.loads(BUILTIN_CONFIG.read_text()) | {"vocab_size": 97}
    (path / "config.json").write_text(json.dumps(config))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    write_provenance(path, {"format": "gguf", "precision": "int4"})
    return path


BUILTIN_CONFIG = Path(__file__).parents[2] / "demo" / "model" / "config.json"


def expected(prompt: list[int], most: int, ended: Callable[[list[int]], bool]) -> list[int]:
    """The answer that the rule of the double gives."""
    rule: dict[str, Any] = {}
    exec(RULE, rule)
    answer: list[int] = []
    while len(answer) < most:
        answer.append(int(rule["probabilities"]([*prompt, *answer], GOOD)[0][0]))
        if ended(answer):
            break
    return answer


def answers(path: Path, decoding: Decoding) -> list[list[int]]:
    with progress("", len(PROMPTS)) as bar:
        return open_backend(path).generate(PROMPTS, decoding, bar)


def test_answers_are_whole_across_requests_and_in_order(on_path: Path, tmp_path: Path) -> None:
    most = 2 * CHUNK + 5
    told: dict[int, int] = {}
    decoding = Decoding(most, (), answered=lambda number, made: told.update({number: len(made)}))
    made = answers(artifact(tmp_path), decoding)
    assert made == [expected(prompt, most, lambda _: False) for prompt in PROMPTS]
    assert told == dict.fromkeys(range(len(PROMPTS)), most)
    (command, key) = json.loads((on_path / "started").read_text())
    assert command[command.index("--parallel") + 1] == "8"
    assert int(command[command.index("--ctx-size") + 1]) >= 8 * (3 + most)
    assert command[command.index("--n-gpu-layers") + 1] == "0"
    assert key not in " ".join(command)


def test_an_answer_ends_with_its_end_token(on_path: Path, tmp_path: Path) -> None:
    made = answers(artifact(tmp_path, end=END), Decoding(200, (END,)))
    assert made == [expected(prompt, 200, lambda a: a[-1] == END) for prompt in PROMPTS]
    assert any(len(answer) < 200 for answer in made)


def test_an_answer_ends_where_its_text_does(on_path: Path, tmp_path: Path) -> None:
    """The server knows nothing of this end, so it may be in the middle of a request."""

    def ended(tokens: Any) -> bool:
        return len(tokens) > CHUNK and tokens[-1] % 3 == 0

    made = answers(artifact(tmp_path), Decoding(90, (), ended))
    assert made == [expected(prompt, 90, ended) for prompt in PROMPTS]
    assert {len(answer) for answer in made} != {90}


def test_a_server_that_dies_is_an_error_with_its_log(on_path: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgewrightError, match="out of memory"):
        answers(artifact(tmp_path, dies=True), Decoding(4))


def test_a_server_that_does_not_know_the_model_is_an_error(on_path: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgewrightError, match="unknown architecture"):
        time_alone(artifact(tmp_path, fails=True), LATENCY, "cpu", 1)


def test_times_are_those_of_the_server(on_path: Path, tmp_path: Path) -> None:
    path = artifact(tmp_path)
    metrics, context = time_alone(path, LATENCY, "cpu", 1)
    assert metrics["ttft_ms/p50"] == pytest.approx(10)
    assert metrics["token_ms/p50"] == pytest.approx(5)
    assert metrics["decode_tok_s/p50/batch2-prompt4"] == pytest.approx(2 * 200)
    assert metrics["peak_rss_bytes"] >= metrics["peak_rss_bytes/load"] > 1e6
    assert context["latency"]["prompt"] == 4
    against = time_against(path, path, LATENCY, "cpu", 1)
    assert {found["verdict"] for found in against.values()} == {"alike"}


@pytest.mark.usefixtures("off_path")
def test_without_the_program_the_message_says_what_to_do(tmp_path: Path) -> None:
    assert not can_measure("gguf") and can_measure("onnx") and not can_measure("edge-llm")
    with pytest.raises(UsageError, match="llama-server is not on PATH") as caught:
        LlamaBackend(artifact(tmp_path), "cpu", "", 1)
    assert "evaluate.llama_server" in caught.value.hint
    with pytest.raises(UsageError, match="/nowhere/llama: no such program"):
        LlamaBackend(tmp_path / "letters-gguf", "cpu", "/nowhere/llama", 1)


@pytest.mark.usefixtures("off_path")
def test_a_recipe_is_refused_before_work_without_the_program(cli: Any, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(RECIPE))
    code, _, error = cli("run", file, "--out", tmp_path / "run")
    assert code == 2 and "llama-server is not on PATH" in error
    assert not (tmp_path / "run").exists()


def test_what_needs_logits_is_left_out_and_said(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"question": "1 + 1?", "choices": ["1", "2"], "answer": 1}\n')
    asked = EvaluateOptions(tasks=("reasoning", f"choice:{file}"), perplexity=("text:wiki.txt",))
    left, notes = measured_without_logits(asked)
    assert (left.tasks, left.perplexity) == (("reasoning",), ())
    assert len(notes) == 1 and f"choice:{file}, perplexity of text:wiki.txt" in notes[0]
    assert measured_without_logits(left) == (left, [])


def test_a_gate_limit_on_what_a_gguf_has_not_is_refused_before_work() -> None:
    def with_limit(metric: str, kind: str) -> Recipe:
        limits = {metric: {kind: 1.1}}
        gate = {"candidate": "export", "baseline": "baseline", "limits": limits}
        return Recipe.model_validate(RECIPE | {"gate": gate})

    check_inputs(with_limit("accuracy/reasoning", "min_ratio"))
    with pytest.raises(UsageError, match=r"`evaluate\.perplexity` measures nothing"):
        check_inputs(with_limit(f"perplexity/{Source.parse(TEXT).label}", "max_ratio"))


def test_text_is_not_scored(cli: Any, on_path: Path, tmp_path: Path) -> None:
    path = artifact(tmp_path)
    (tmp_path / "wiki.txt").write_text("some text\n" * 40)
    code, _, error = cli("bench", path, "--perplexity", f"text:{tmp_path / 'wiki.txt'}")
    assert code == 2 and "llama.cpp gives no logits of whole texts" in error
