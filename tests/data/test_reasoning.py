"""Generated problems: the held-out set, training streams, correct traces, and the verifier."""

from __future__ import annotations

import itertools
import math
import random
import re
import sys
from collections.abc import Iterator

import pytest

from edgewright.data.problem_generators import GENERATORS, is_answer
from edgewright.data.reasoning import (
    HELD_OUT,
    TASKS,
    Problem,
    extract_answer,
    held_out,
    held_out_questions,
    is_correct,
    training_problems,
)
from edgewright.data.sources import Source

LIKE = {
    "chain_sum": {"min_terms": 2, "max_terms": 5, "min_digits": 1, "max_digits": 2},
    "products": {"min_digits": 2, "max_digits": 2},
    "gcd": {"min_value": 2, "max_value": 99},
    "leg_counting": {"min_animals": 2, "max_animals": 5},
}
"""Settings with which reasoning-gym makes the built-in problems."""


@pytest.fixture(scope="module")
def evaluation() -> list[Problem]:
    """Every held-out problem of every task."""
    return held_out(HELD_OUT * len(TASKS), tuple(TASKS))


def test_held_out_is_fixed_mixed_and_free_of_doubles(evaluation: list[Problem]) -> None:
    scored = held_out(40)
    assert [p.question for p in Source.parse("builtin:reasoning").problems(41)[:40]] == [
        p.question for p in scored
    ]
    assert [p.task for p in scored[:6]] == [*TASKS, *list(TASKS)[:2]]
    assert [p.task for p in evaluation[:4]] == list(TASKS)
    assert held_out_questions() == {p.question for p in evaluation} >= {p.question for p in scored}
    assert len(held_out_questions()) == len(evaluation) > 900
    assert len(held_out(10**6)) > 700


def test_held_out_questions_never_occur_in_training() -> None:
    examples = list(itertools.islice(Source.parse("builtin:reasoning").training(0), 5000))
    questions = held_out_questions()
    assert not questions & {e.prompt for e in examples}
    stream = training_problems(0, frozenset())
    unfiltered = {p.question for p in itertools.islice(stream, 5000)}
    assert questions & unfiltered  # so the filter has something to do


def test_training_streams() -> None:
    first, again, other = (
        [p.question for p in itertools.islice(training_problems(seed, frozenset()), 300)]
        for seed in (0, 0, 1)
    )
    assert first == again != other
    assert len(set(first) & set(other)) < 100
    stream = [
        p.question for p in itertools.islice(training_problems(3, frozenset(), block=16), 192)
    ]
    assert len(set(stream)) > 150  # later blocks are new problems


def equalities(trace: str) -> Iterator[list[str]]:
    """The terms of each equation in a trace. A line that starts with `=` continues the last one."""
    for line in trace.replace("\n=", "=").splitlines():
        for equation in line.split(", "):
            yield re.sub("^[a-z ]+ (?=[0-9])", "", equation).split("=")


def check_trace(problem: Problem) -> None:
    for terms in equalities(problem.trace):
        assert len(terms) > 1 or re.fullmatch("-?[0-9]+[-+]0", terms[0]), problem.trace
        assert all(re.fullmatch("[-+*%0-9]+", term) for term in terms), terms
        assert len({eval(term) for term in terms}) == 1, terms
    last = list(equalities(problem.trace))[-1]
    if problem.task == "gcd":
        assert last[-1] == "0"
        assert (
            re.split("[-%*]", last[0])[1]
            == problem.answer
            == str(math.gcd(*problem.entry["metadata"]["numbers"]))
        )
    elif problem.task == "leg_counting":  # what has no legs may come last
        assert problem.answer in [terms[-1] for terms in equalities(problem.trace)]
    else:
        assert str(eval(last[-1])) == problem.answer


def test_traces_are_arithmetically_right(evaluation: list[Problem]) -> None:
    for problem in evaluation:
        check_trace(problem)
    for problem in itertools.islice(training_problems(0, frozenset(), block=64), 256):
        check_trace(problem)


def test_right_answers_pass_and_wrong_ones_do_not(evaluation: list[Problem]) -> None:
    for problem in evaluation[::3]:
        assert is_correct(problem, problem.completion)
        assert is_correct(problem, f"<think>\n{problem.completion}\nand more")
        wrong = str(int(problem.answer) + 1)
        assert not is_correct(problem, f"{problem.trace}\n</think>\n{wrong}")
        assert not is_correct(problem, f"{problem.trace}\n{problem.answer}")
        assert not is_correct(problem, "")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a</think>\n42\nmore", "42"),
        ("1</think>2</think> 3 ", "3"),
        ("42", ""),
        ("", ""),
        ("</think>", ""),
        ("<think></think>\n\n7", "7"),
    ],
)
def test_extract_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("task", TASKS)
def test_problems_and_verdicts_are_those_of_reasoning_gym(task: str) -> None:
    gym = pytest.importorskip("reasoning_gym", reason="needs the extra `eval`")
    seeds = (500_000, 1_000_000, 9_100_000_000)
    score = gym.get_score_answer_fn(task)
    for seed in seeds:
        dataset = gym.create_dataset(task, seed=seed, size=200, **LIKE[task])
        for index, entry in enumerate(dataset):
            question, result, metadata = GENERATORS[task](random.Random(seed + index))
            assert (question, str(result)) == (entry["question"], entry["answer"])
            assert metadata.items() <= entry["metadata"].items()
    right = entry["answer"]
    for answer in (
        right,
        f"+{right}",
        f"0{right}",
        f"{right}.0",
        f"{right},",
        "",
        "x",
        f" {right}",
    ):
        assert is_answer(task, answer, right) == (float(score(answer, entry)) == 1.0), answer


def test_built_in_problems_need_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    (problem,) = held_out(1)
    assert is_correct(problem, problem.completion)
    assert next(training_problems(0, frozenset())).trace
