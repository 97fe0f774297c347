"""Traces: sampling, voting, selection; on the tiny reasoner, with wrong answers, and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from edgewright.benchmarks.traces import chains
from edgewright.benchmarks.traces.options import ChoiceRules, TracesOptions
from edgewright.benchmarks.traces.sampling import Sampler
from edgewright.benchmarks.traces.teacher_questions import read_questions
from edgewright.benchmarks.traces.votes import REASONS, Chain, majority, select_chains
from edgewright.checkpoints.config import model_path, resolve
from edgewright.checkpoints.tokenizer import load_tokenizer
from edgewright.data.draws import uniforms
from edgewright.data.reasoning import held_out_questions, training_problems
from edgewright.data.sources import Source, training_rows
from edgewright.errors import UsageError
from edgewright.generation.sampling import nucleus_sample

Cli = Callable[..., tuple[int, str, str]]
REASONER = "builtin:tiny-reasoner"
WRONG = (3, 14, 25)
"""Rows whose answer is not the right one."""


# Sampling


def test_draws_follow_the_nucleus() -> None:
    """Probabilities of 0.5, 0.3, 0.15 and 0.05, mixed: a nucleus of 0.9 is the first three."""
    logits = torch.tensor([0.15, 0.5, 0.05, 0.3]).log()
    uniform = (torch.arange(10_000) + 0.5) / 10_000

    def shares(top_p: float, temperature: float = 1.0) -> list[float]:
        drawn = nucleus_sample(logits.expand(10_000, 4), temperature, top_p, uniform)
        return (drawn.bincount(minlength=4) / 10_000).tolist()

    assert shares(1.0) == pytest.approx([0.15, 0.5, 0.05, 0.3], abs=1e-3)
    assert shares(0.9) == pytest.approx([0.15 / 0.95, 0.5 / 0.95, 0, 0.3 / 0.95], abs=1e-3)
    assert shares(0.8) == pytest.approx([0, 0.5 / 0.8, 0, 0.3 / 0.8], abs=1e-3)
    assert shares(0.01) == [0, 1, 0, 0]
    assert shares(1.0, 0.5) == pytest.approx(
        [p / 0.365 for p in (0.0225, 0.25, 0.0025, 0.09)], abs=1e-3
    )
    assert shares(1.0, 0) == [0, 1, 0, 0]


def test_a_chain_has_random_numbers_of_its_own() -> None:
    both = uniforms(5, [(7, 0), (8, 1)], 6)
    assert torch.equal(uniforms(5, [(8, 1)], 6)[0], both[1])
    assert torch.equal(uniforms(5, [(8, 1)], 4)[0], both[1, :4])
    assert (
        len({tuple(row.tolist()) for row in [*both, *uniforms(6, [(7, 0), (8, 0), (7, 1)], 6)]})
        == 5
    )


def test_entropy_is_the_mean_over_the_tokens_of_a_row() -> None:
    sampler = Sampler(0.5, 1.0, torch.full((3, 2), 0.5))
    sure, even = torch.tensor([0.0, -100.0, -100.0, -torch.inf]), torch.zeros(4)
    sampler(torch.stack([sure, even, even]), torch.arange(3), 0)
    sampler(torch.stack([even, sure]), torch.tensor([0, 2]), 1)
    assert sampler.entropy() == pytest.approx([1.3863 / 2, 1.3863, 1.3863 / 2], abs=1e-3)


# The vote and the filters


def chain(
    answer: str = "4",
    *,
    text: str = "",
    correct: bool = True,
    tokens: int = 9,
    entropy: float = 0.1,
    finished: bool = True,
) -> Chain:
    return Chain(
        text or f"{answer}, {tokens} {entropy}", answer, correct, tokens, entropy, finished
    )


def test_the_vote() -> None:
    def close(a: str, b: str) -> bool:
        return a.strip("0.") == b.strip("0.")

    assert majority(["4", "5", "4", ""], str.__eq__).answer == "4"
    vote = majority(["", "0.4", "5", "5", ".4", "0.40"], close)
    assert (vote.answer, vote.votes, vote.voters) == ("0.4", 3, {1, 4, 5})
    assert majority(["5", "4"], str.__eq__).answer == "5", "the first of those that tie"
    assert majority(["", ""], str.__eq__).votes == 0


def reasons(chains: list[Chain], **rules: Any) -> list[str]:
    return select_chains(
        chains, majority([c.answer for c in chains], str.__eq__), ChoiceRules(**rules)
    )


@pytest.mark.parametrize(
    ("odd", "rules", "why"),
    [
        ({"finished": False}, {}, "unfinished"),
        ({"answer": ""}, {}, "no answer"),
        ({"answer": "5", "correct": False}, {}, "outvoted"),
        ({"answer": "5", "correct": False}, {"accept": "majority"}, "outvoted"),
        ({"answer": "5", "correct": False}, {"accept": "verified"}, "wrong"),
        ({"tokens": 3}, {"min_tokens": 4}, "short"),
        ({"tokens": 13}, {"max_tokens": 12}, "long"),
        ({"entropy": 0.5}, {"max_entropy": 0.4}, "uncertain"),
        ({"text": "the same"}, {}, ""),
    ],
)
def test_one_chain_is_not_kept(odd: dict[str, Any], rules: dict[str, Any], why: str) -> None:
    plain = [chain(tokens=n) for n in (8, 9, 10)]
    assert reasons([*plain, chain(**odd)], **rules) == ["", "", "", why]


def test_what_a_whole_question_fails_for() -> None:
    split = [chain("4"), chain("5", correct=False), chain("6", correct=False)]
    assert reasons(split) == ["no majority"] * 3
    assert reasons(split, agreement=0.3) == ["", "outvoted", "outvoted"]
    assert reasons(split, accept="verified") == ["", "wrong", "wrong"]
    lied = [
        chain("4", correct=False, tokens=n) for n in (8, 9)
    ]  # as the source gives another answer
    assert reasons(lied) == ["wrong", "wrong"]
    assert reasons(lied, accept="majority") == ["", ""]


def test_the_most_certain_are_kept_and_no_text_twice() -> None:
    chains = [
        chain(entropy=e, text=t)
        for e, t in ((0.4, "a"), (0.1, "b"), (0.3, "c"), (0.05, "a"), (0.2, "b"), (0.6, "b"))
    ]
    assert reasons(chains, keep=2) == ["repeated", "", "surplus", "", "repeated", "repeated"]
    assert set(REASONS) >= {"repeated", "surplus"}


# Questions


def test_questions_are_asked_once_and_never_held_out() -> None:
    questions, _ = read_questions("builtin:reasoning", 60, 3)
    assert len({q.text for q in questions}) == 60
    assert not {q.text for q in questions} & held_out_questions()
    first = questions[0]
    problem = next(training_problems(3, held_out_questions()))
    assert (first.row, first.text, first.verify(problem.completion)) == (1, problem.question, True)
    assert not first.verify(problem.completion + "1")


def test_questions_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl"
    rows = [("A half of 3?", "3/2 #### 1.5"), ("Why?", "because"), ("A half of 3?", "#### 9")]
    file.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    questions, repeated = read_questions(f"jsonl:{file}", 10, 0)
    assert [(q.row, q.expected) for q in questions] == [(1, "1.5"), (2, "because")]
    assert repeated == 1
    assert questions[0].verify("so\n</think>\n\\boxed{\\frac{3}{2}}")
    assert not questions[0].verify("so\n</think>\n3")
    assert len(read_questions(f"jsonl:{file}", 1, 0)[0]) == 1
    for part, numbers in (("[1:]", [2, 3]), ("[-1:]", [3]), ("[:-1]", [1, 2])):
        chosen, _ = read_questions(f"jsonl:{file}{part}", 10, 0)
        assert [q.row for q in chosen] == numbers, "rows are counted from the file's beginning"
    for source in (f"jsonl:{file}:answer", f"text:{file}"):
        with pytest.raises(UsageError, match="no questions with answers"):
            read_questions(source, 10, 0)
    with pytest.raises(ValidationError):
        TracesOptions(accept="some")  # type: ignore[arg-type]


# The verb, on the tiny reasoner


def noisy_file(file: Path, count: int) -> list[str]:
    """Questions of training problems, a tenth of them with a wrong answer; the right answers."""
    problems = list(islice(training_problems(7, held_out_questions()), count))
    given = [
        str(int(p.answer) + 10) if row in WRONG else p.answer for row, p in enumerate(problems, 1)
    ]
    file.write_text(
        "".join(
            json.dumps({"question": p.question, "answer": a}) + "\n"
            for p, a in zip(problems, given, strict=True)
        )
    )
    return [p.answer for p in problems]


def test_wrong_answers_of_the_source_teach_nothing(cli: Cli, tmp_path: Path) -> None:
    out, source = tmp_path / "traces.jsonl", tmp_path / "noisy.jsonl"
    right = noisy_file(source, 30)
    limits = ["--chains", 4, "--max-new-tokens", 144]
    command = ["traces", REASONER, "--prompts", f"jsonl:{source}", *limits, "--out", out, "--json"]
    code, printed, err = cli(*command)
    assert code == 0, err
    report, lines = json.loads(printed), [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == report["kept"] >= 24
    assert all(line["answer"] == right[line["source"]["row"] - 1] for line in lines)
    assert not {line["source"]["row"] for line in lines} & set(WRONG)
    assert {one["row"] for one in report["doubted_rows"]} >= set(WRONG), (
        "the chains outvote what is wrong"
    )
    assert report["chains"] == 120 == report["kept"] + sum(report["rejected"].values())
    assert report["rejected"]["wrong"] >= 9
    assert (
        0.7 < report["pass@1"] <= report["maj@4"] + 0.1 <= 1.0
    )  # a tenth of the answers are wrong
    by_question = Counter(line["source"]["row"] for line in lines)
    assert max(by_question.values()) <= 4 and report["questions_with_traces"] == len(by_question)
    assert {
        "teacher",
        "seed",
        "sampling",
        "votes",
        "verdict",
        "entropy",
        "tokens",
        "chain",
    } <= lines[0].keys()

    # They are data to learn on: the prompt is not learnt, the chain is, and its end.
    tokenizer = load_tokenizer(resolve(model_path(REASONER)))
    row = next(training_rows(tokenizer, Source.parse(f"jsonl:{out}"), 400, 0))
    learnt = tokenizer.decode([token for token in row.labels if token >= 0])
    assert learnt.startswith(lines[0]["completion"] + tokenizer.eos_token)
    assert lines[0]["prompt"] in tokenizer.decode(row.ids) and lines[0]["prompt"] not in learnt

    # Nothing has changed: it is not asked again. What somebody else wrote is not overwritten.
    assert json.loads(cli(*command)[1])["reused"]
    assert "kept" in cli(*command[:-1])[1]
    (tmp_path / "mine.jsonl").write_text("my own")
    code, _, err = cli(*command[:-2], tmp_path / "mine.jsonl")
    assert (code, "was not written by edgewright" in err) == (2, True)


def test_interrupted_in_the_middle_and_started_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two questions a batch, the third batch is interrupted. Only that one runs again."""
    monkeypatch.setattr(chains, "ROWS_A_BATCH", 8)
    asked: list[list[int]] = []
    sampled = chains._sample

    def watched(options: Any, questions: Any, *rest: Any) -> Any:
        asked.append([question.row for question in questions])
        if len(asked) == 6:
            raise KeyboardInterrupt
        return sampled(options, questions, *rest)

    monkeypatch.setattr(chains, "_sample", watched)
    command = [
        "traces",
        REASONER,
        "--prompts",
        "builtin:reasoning",
        "--limit",
        6,
        "--chains",
        4,
        "--max-new-tokens",
        64,
    ]
    assert cli(*command, "--out", tmp_path / "whole.jsonl")[0] == 0
    assert cli(*command, "--out", tmp_path / "out.jsonl")[0] == 130
    assert not (tmp_path / "out.jsonl").exists()
    code, _, err = cli(*command, "--out", tmp_path / "out.jsonl")
    assert code == 0, err
    assert "4 of 6 questions were answered by an interrupted run" in err
    assert asked[:3] == asked[3:6] and asked[6:] == asked[2:3]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes() != b""


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(cli: Cli, tmp_path: Path) -> None:
    """With one question a batch, the last line is cut off as by a kill during a write."""
    sampled = ["--chains", 40, "--max-new-tokens", 64, "--temperature", 1]
    command = ["traces", REASONER, "--prompts", "builtin:reasoning", "--limit", 4, *sampled]
    assert cli(*command, "--out", tmp_path / "whole.jsonl")[0] == 0
    out, chains = tmp_path / "out.jsonl", tmp_path / ".out.jsonl.chains" / "chains.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgewright.cli", *map(str, command), "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not (
        chains.is_file() and chains.read_bytes().count(b"\n") > 1
    ):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had ended before it could be killed"
    assert not out.exists()
    with chains.open("r+b") as file:
        file.truncate(chains.stat().st_size - 100)
    code, _, err = cli(*command, "--out", out)
    assert code == 0, err
    assert "1 of 4 questions were answered by an interrupted run" in err
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(out.read_bytes()) > 1000
    assert not chains.parent.exists()


def test_a_recipe_makes_its_traces_and_learns_on_them(cli: Cli, tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(
        "calibration: {samples: 4, seq_len: 64}\n"
        "traces: {prompts: 'builtin:reasoning', limit: 6, chains: 2, max_new_tokens: 64}\n"
        "evaluate: {perplexity: ['builtin:reasoning'], windows: 2, latency: null}\n"
        "steps:\n  - {kind: distill, teacher: none, seq_len: 32, batch_size: 2, stages: "
        "[{loss: labels, steps: 2, data: traces}]}\n"
    )
    code, printed, err = cli("run", recipe, "--out", out, "--json")
    assert code == 0, err
    ledger = json.loads(printed)
    assert ledger["traces"]["kept"] == len((out / "traces.jsonl").read_text().splitlines()) > 3
    assert ledger["recipe"]["steps"][0]["stages"][0]["data"] == "traces"
    assert ledger["steps"][1]["depends_on"]["data"].keys() == {
        "builtin:reasoning",
        f"jsonl:{out / 'traces.jsonl'}",
    }
    code, _, err = cli("run", recipe, "--out", out, "--json")
    assert (code, err.count("reused")) == (0, 2), err
