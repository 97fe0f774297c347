"""Tasks over a URL: what is asked and how often, what is scored, and what is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Answer, Asked, ScriptedServer, document, good, serving

from edgewright.benchmarks.endpoint import writer
from edgewright.benchmarks.endpoint.measure import bench_url
from edgewright.benchmarks.endpoint.options import LoadOptions
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.questions import BOX
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.errors import EdgewrightError, UsageError

KEY = "very-secret-key-0123"
SUMS = [(number, number + 3) for number in range(6)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses before a request is sent again."""
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.001)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"question": f"{a} plus {b}?", "answer": f"#### {a + b}"} for a, b in SUMS]
    found = tmp_path / "sums.jsonl"
    found.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def chat(text: str | None, **more: Any) -> bytes:
    """A whole answer of a chat."""
    message = {"role": "assistant", "content": text, **more}
    return document({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def question_of(asked: Asked) -> str:
    return asked.body["messages"][-1]["content"].partition("?")[0]


async def right(asked: Asked) -> AsyncIterator[bytes]:
    """The right answer to sums that begin with an even number, and no number to others."""
    a, b = (int(word) for word in question_of(asked).split(" plus "))
    yield chat(f"So it is \\boxed{{{a + b}}}." if a % 2 == 0 else "I do not know")


def bench(answer: Answer, file: Path, save: Path | None = None, **more: Any) -> Any:
    """The measurement, and the server that was asked."""
    server = ScriptedServer(answer)
    options = EvaluateOptions(tasks=(f"qa:{file}",), limit=6, latency=None)
    with serving(server):
        return bench_url(server.url, options, LoadOptions(**more), save), server


def test_questions_are_chats_and_their_answers_are_scored(file: Path) -> None:
    found, server = bench(right, file)
    assert found["metrics"]["accuracy/sums"] == 0.5
    assert found["metrics"]["accuracy/sums/n"] == 6
    assert found["context"]["endpoint"] == {"host": "127.0.0.1", "api": "chat"}
    assert found["context"]["served_model"] == "tiny"
    asked = [one for one in server.asked if one.method == "POST"]
    assert {one.path for one in asked} == {"/v1/chat/completions"}
    for one in asked:
        content = one.body["messages"][0].pop("content")
        assert content.endswith(f"?\n\n{BOX}")
        assert one.body == {
            "model": "tiny",
            "messages": [{"role": "user"}],
            "max_tokens": 160,
            "temperature": 0.0,
        }


def test_a_measurement_is_saved_with_its_answers_and_without_the_key(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_API_KEY", KEY)
    _, server = bench(right, file, tmp_path / "new.json")
    assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.asked)
    written = {path: path.read_text() for path in tmp_path.iterdir()}
    assert len(written) == 3
    assert not any(KEY in text for text in written.values())
    answers = [
        json.loads(line)
        for line in "".join(
            text for path, text in written.items() if "answers" in path.name
        ).splitlines()
    ]
    assert [one["correct"] for one in answers] == [True, False] * 3
    assert answers[0]["text"] == "So it is \\boxed{3}."


@pytest.mark.parametrize("concurrency", [(), (2,), (1, 3)])
def test_so_many_are_asked_at_the_same_time(file: Path, concurrency: tuple[int, ...]) -> None:
    _, server = bench(right, file, concurrency=concurrency)
    assert server.most_running <= max(concurrency, default=4)


def failing(times: int, failure: bytes, tried: Counter[str]) -> Answer:
    """A server that fails so often before it answers a question."""

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        tried[question_of(asked)] += 1
        if tried[question_of(asked)] > times:
            async for part in right(asked):
                yield part
            return
        yield failure

    return answer


BUSY = document({"error": {"message": "busy"}}, "429 Too Many Requests")


@pytest.mark.parametrize(
    "failure",
    [
        BUSY,
        BUSY.replace(b"Content-Type", b"Retry-After: 0\r\nContent-Type"),
        document({"error": {"message": "loading"}}, "503 Service Unavailable"),
        b"nonsense\r\n\r\n",
    ],
)
def test_a_failure_that_may_pass_is_asked_again(file: Path, failure: bytes) -> None:
    tried = Counter[str]()
    found, _ = bench(failing(2, failure, tried), file, retries=2)
    assert set(tried.values()) == {3}
    assert found["metrics"]["accuracy/sums"] == 0.5


def test_repetitions_have_a_limit(file: Path) -> None:
    tried = Counter[str]()
    with pytest.raises(EdgewrightError, match="HTTP 429: busy"):
        bench(failing(9, BUSY, tried), file, retries=1, concurrency=(1,))
    assert max(tried.values()) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (document({"error": {"message": "no such field"}}, "400 Bad Request"), "no such field"),
        (document({"error": {"message": "no"}}, "401 Unauthorized"), "EDGEWRIGHT_API_KEY"),
        (document({"choices": []}), "it sent no answer"),
        (document(b"not JSON"), "it sent no answer"),
        (document({"choices": [{"message": {"content": 5}}]}), "it sent no answer"),
    ],
)
def test_other_failures_end_it_at_once(file: Path, reply: bytes, said: str) -> None:
    tried = Counter[str]()
    with pytest.raises(EdgewrightError) as caught:
        bench(failing(9, reply, tried), file, concurrency=(1,))
    assert said in f"{caught.value} {caught.value.hint}"
    assert max(tried.values()) == 1


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_are_no_answer_but_are_kept(file: Path, tmp_path: Path, name: str) -> None:
    async def thinks(asked: Asked) -> AsyncIterator[bytes]:
        a, b = (int(word) for word in question_of(asked).split(" plus "))
        yield chat(f"{a + b}", **{name: "Perhaps \\boxed{77}."})

    found, _ = bench(thinks, file, tmp_path / "new.json")
    assert found["metrics"]["accuracy/sums"] == 1
    kept = next(tmp_path.glob("*answers*")).read_text()
    assert "77" in kept


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_answers_that_were_cut_off_are_noted(file: Path, api: Any) -> None:
    reasons = ["length", "stop", None, {"why": "length"}, "length", "eos"]

    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        said = {"text": "3", "message": {"content": "3"}, "finish_reason": reasons.pop()}
        yield document({"choices": [said]})

    found, _ = bench(answer, file, api=api)
    (note,) = found["notes"]
    assert note.startswith("2 of 6 answers of sums were cut off at 160 tokens")


def test_completions_are_plain_texts_without_a_tokenizer(file: Path) -> None:
    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        yield document({"choices": [{"text": " 3\n\nQuestion: 5 plus 5?\nAnswer: 10"}]})

    found, server = bench(answer, file, api="completions")
    asked = [one.body for one in server.asked if one.method == "POST"]
    assert asked[0]["prompt"].startswith("Question: ")
    assert {tuple(body["stop"]) for body in asked} == {("\nQuestion:",)}
    assert found["metrics"]["accuracy/sums"] == pytest.approx(1 / 6)
    assert "framing/sums" not in found["context"]


def test_prompts_are_those_of_a_model_here_with_its_tokenizer(
    file: Path, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        yield document({"choices": [{"text": "\\boxed{3}"}]})

    model = shutil.copytree(make_model("llama"), tmp_path / "model")
    (model / "chat_template.jinja").write_text("<|user|>{{ messages[0]['content'] }}<|assistant|>")
    found, server = bench(answer, file, api="completions", tokenizer=model)
    tokenizer = load_tokenizer(model)
    asked = [tokenizer.decode(one.body["prompt"]) for one in server.asked if one.method == "POST"]
    turns = [{"role": "user", "content": f"0 plus 3?\n\n{BOX}"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert expected in asked
    assert found["context"]["framing/sums"]


@pytest.mark.parametrize("task", ["choice:{}", "lm-eval:hellaswag"])
def test_tasks_that_need_likelihoods_are_refused_before_a_request(file: Path, task: str) -> None:
    options = EvaluateOptions(tasks=(task.format(file),), latency=None)
    with serving(ScriptedServer(right)) as server, pytest.raises(UsageError, match="likelihood"):
        bench_url(server.url, options, LoadOptions(), None)
    assert server.asked == []


def test_tasks_and_latency_are_one_measurement(file: Path, tmp_path: Path) -> None:
    async def both(asked: Asked) -> AsyncIterator[bytes]:
        async for part in (right if "messages" in asked.body else good)(asked):
            yield part

    server = ScriptedServer(both)
    load = LoadOptions(concurrency=(1,), requests=2, output_tokens=4, prompt_tokens=16)
    with serving(server):
        found = bench_url(server.url, EvaluateOptions(tasks=(f"qa:{file}",)), load, None)
    assert found["metrics"]["accuracy/sums"] == 0.5
    assert found["metrics"]["ttft_ms/p50/concurrency1"] > 0
    assert found["context"]["endpoint"]["api"] == "completions"
    assert found["context"]["tasks_api"] == "chat"
