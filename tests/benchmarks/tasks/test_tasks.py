"""Tasks from files: what is asked, how answers are read, and that a wrong one counts as wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_backend import Scripted, lines, problems

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Policy
from edgewright.benchmarks.measure import measure
from edgewright.benchmarks.options import EvaluateOptions
from edgewright.benchmarks.tasks.backends import open_backend
from edgewright.benchmarks.tasks.multiple_choice import answer_by_likelihood, read_choices
from edgewright.benchmarks.tasks.questions import answer_questions, frame, read_pairs
from edgewright.benchmarks.tasks.sandbox import NOT_CONFINED, protections, run_program
from edgewright.benchmarks.tasks.task import Task
from edgewright.benchmarks.tasks.writers import LocalWriter
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.errors import UsageError

REASONER = Path(__file__).parents[3] / "demo" / "model"


def test_questions_are_asked_behind_examples_and_judged(make_model, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "sums.jsonl",
        {"question": "1+1?", "answer": "one and one #### 2"},
        {"question": "2+5?", "answer": "#### 7"},
        {"question": "3+9?", "answer": "#### 12"},
        {"question": "4+4?", "answer": "#### 8"},
    )
    tokenizer = load_tokenizer(make_model("llama"))
    backend: Any = Scripted(
        tokenizer,
        {
            "2+5?": "is 2+5=7\n#### 7.0",
            "3+9?": "</think>\nthe answer is 13",
            "4+4?": "8 \\boxed{8}",
        },
    )
    writer = LocalWriter(backend, tokenizer)
    answers = answer_questions(writer, "sums", read_pairs(problems(file)), 1, 10, 40)
    assert [(a.question, a.expected, a.correct) for a in answers] == [
        ("2+5?", "7", True),
        ("3+9?", "12", False),
        ("4+4?", "8", True),
    ]
    assert all("one and one" in prompt for prompt in backend.prompts)
    tokenizer.chat_template = None
    assert (
        frame("2+5?", [("1+1?", "2")]).text
        == "Question: 1+1?\nAnswer: 2\n\nQuestion: 2+5?\nAnswer:"
    )
    backend.replies = {"2+5?": "7\n\nQuestion: 8+8?\nAnswer: 16", "3+9?": "12", "4+4?": "9"}
    answers = answer_questions(writer, "sums", read_pairs(problems(file)), 1, 10, 40)
    assert [a.correct for a in answers] == [True, True, False], (
        "what follows the model's own next question is not its answer"
    )


def test_choices_are_weighed_by_likelihood(make_model, tmp_path: Path) -> None:
    """Against likelihoods computed one by one from the model's own logits."""
    file = lines(
        tmp_path / "c.jsonl",
        {"question": "12+30", "choices": ["42", "7 boats in the harbour", "3"], "answer": 0},
        {
            "question": "cat",
            "choices": {"text": ["tide", "roses"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        {"question": "kettle", "choices": ["seven", "noon"], "answer": "noon"},
    )
    path = make_model("llama")
    backend, tokenizer, questions = (
        open_backend(path),
        load_tokenizer(path),
        read_choices(problems(file)),
    )
    assert [q.right for q in questions] == [0, 1, 1]
    plain, by_byte = answer_by_likelihood(backend, tokenizer, "c", questions, 0, 10)
    for one, best, best_by_byte in zip(questions, plain, by_byte, strict=True):
        scores = []
        for choice in one.choices:
            context = tokenizer(f"Question: {one.question}\nAnswer:")["input_ids"]
            ids = torch.tensor(
                [tokenizer(f"Question: {one.question}\nAnswer: {choice}")["input_ids"]]
            )
            logs = backend.logits(ids, torch.ones_like(ids)).log_softmax(-1)[0]
            scores.append(
                sum(float(logs[i - 1, ids[0, i]]) for i in range(len(context), ids.shape[1]))
            )
        assert best.text == one.choices[scores.index(max(scores))]
        weighed = [score / len(choice) for score, choice in zip(scores, one.choices, strict=True)]
        assert best_by_byte.text == one.choices[weighed.index(max(weighed))]
        assert best.correct == (best.text == one.choices[one.right])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["a"], "answer": 0}, "not a multiple-choice question"),
        ({"question": "q", "choices": ["a", "b"], "answer": "C"}, "none of the 2 choices"),
        ({"choices": ["a", "b"], "answer": 0}, "row 1"),
        ({"question": "q", "choices": ["a", "b"], "answer": True}, "True is none of the 2 choices"),
        ({"question": "q", "choices": ["B", "A"], "answer": "A"}, "'A' is several of the 2"),
        (
            {"question": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answer": 1},
            "1 is none of the 2 choices",
        ),
        (
            {"question": "q", "choices": {"text": ["a", "b", "c"], "label": ["A", "B"]}},
            "as many labels as choices, 3",
        ),
        ({"question": "q", "choices": ["a", "b\ud800"], "answer": 0}, "row 1: field `choices` has"),
        ({"question": "\udfff", "choices": ["a", "b"], "answer": 0}, "row 1: field `question` has"),
    ],
)
def test_broken_choices(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_choices(problems(lines(tmp_path / "c.jsonl", row)))


@pytest.mark.parametrize("answer", [2, "2", "x"])
def test_labels_decide_which_choice_is_right(answer: Any, tmp_path: Path) -> None:
    choices = {"text": ["w", "x", "y"], "label": ["1", 2, "3"]}
    row = {"question": "q", "choices": choices, "answerKey": answer}
    assert read_choices(problems(lines(tmp_path / "c.jsonl", row)))[0].right == 1


def test_a_chat_model_is_asked_to_box_its_answer(make_model, tmp_path: Path) -> None:
    file = lines(
        tmp_path / "sums.jsonl",
        {"question": "1+1?", "answer": "#### 2"},
        {"question": "2+5?", "answer": "#### 7"},
    )
    tokenizer = load_tokenizer(make_model("llama"))
    backend: Any = Scripted(tokenizer, {"1+1?": "\\boxed{2}", "2+5?": "7"})
    pairs = read_pairs(problems(file))
    answer_questions(LocalWriter(backend, tokenizer), "sums", pairs, 0, 10, 40)
    assert all("\\boxed{}" in prompt for prompt in backend.prompts)
    tokenizer.chat_template = None
    backend.prompts.clear()
    answer_questions(LocalWriter(backend, tokenizer), "sums", pairs, 0, 10, 40)
    assert not any("boxed" in prompt for prompt in backend.prompts)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("import sys; sys.exit(0)", "ended early"),
        ("while True: pass", ""),
        ("x = bytearray(3 << 30)", "MemoryError"),
        ("open('big', 'wb').write(bytes(32 << 20))", ""),
    ],
)
def test_the_sandbox_limits_what_a_program_takes(source: str, reason: str) -> None:
    outcome = run_program(source, 1.0)
    assert not outcome.passed
    assert reason in outcome.reason


def test_the_sandbox_gives_what_it_says(tmp_path: Path) -> None:
    """A kernel without namespaces or Landlock gives less, and then says less."""
    assert run_program(
        "import math, collections; open('own', 'w').write('x'); print(math.pi)", 2.0
    ).passed
    given = protections()
    assert "limits" in given
    secret = tmp_path / "secret"
    secret.write_text("x")
    outcome = run_program(f"open({str(secret)!r}).read()", 2.0)
    assert outcome.passed == outcome.confinement.startswith(NOT_CONFINED)
    loopback = (
        "import socket; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
        "socket.create_connection(s.getsockname(), 1)"
    )
    assert run_program(loopback, 2.0).passed == (not {"bubblewrap", "seccomp"} & set(given))


@pytest.mark.parametrize("text", ["reason", "gym:", "qa:/no/such.jsonl", "lm-eval"])
def test_unknown_tasks_name_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError) as error:
        Task.parse(text)
    assert "tasks:" in error.value.hint or "JSONL" in error.value.hint


def test_generated_and_file_tasks_end_in_metrics_that_the_gate_takes(tmp_path: Path) -> None:
    """The embedded reasoner itself: sums that it can do, in its own format and in another's."""
    file = lines(
        tmp_path / "sums.jsonl",
        *({"question": f"What is {n} + 7?", "answer": f"#### {n + 7}"} for n in (3, 12, 20)),
    )
    choices = lines(
        tmp_path / "pick.jsonl",
        *({"question": f"{n} + 1", "choices": [str(n + 1), str(n)], "answer": 0} for n in (1, 2)),
    )
    tasks = ("gym:chain_sum", f"qa:{file}", f"choice:{choices}")
    options = EvaluateOptions(tasks=tasks, limit=3, max_new_tokens=60, latency=None)
    found = measure(REASONER, options)
    assert found.metrics["accuracy/sums/n"] == 3 and found.metrics["accuracy/pick/n"] == 2
    assert found.metrics["accuracy/chain_sum"] > 0
    assert {a["task"] for a in found.answers} == {"chain_sum", "sums", "pick"}
    side = {"name": "a", **{key: getattr(found, key) for key in ("metrics", "context", "samples")}}
    result = check_gate(side, side, Policy())
    assert {c["metric"] for c in result["checks"]} == {
        "accuracy/chain_sum",
        "accuracy/sums",
        "accuracy/pick",
    }
    other = {**side, "context": side["context"] | {"shots/sums": 4}}
    with pytest.raises(UsageError, match="shots/sums differs"):
        check_gate(other, side, Policy())
