"""Select the chains of thought to learn from: majority vote, check of the answer, and filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .options import ChoiceRules

__all__ = ["REASONS", "Chain", "SameAnswer", "Vote", "majority", "select_chains"]

SameAnswer = Callable[[str, str], bool]
"""Whether two final answers are the same."""
REASONS = {
    "unfinished": "cut off at the longest answer allowed",
    "no answer": "no final answer was found",
    "no majority": "too few of the question's chains agree",
    "outvoted": "another answer won the vote",
    "wrong": "not the answer that the source gives",
    "short": "fewer tokens than allowed",
    "long": "more tokens than allowed",
    "uncertain": "a higher mean entropy than allowed",
    "repeated": "the same text as another kept chain of the question",
    "surplus": "more kept chains of the question than wanted",
}
"""Why a chain is not kept: short name -> explanation. The first reason that applies is reported."""


@dataclass(frozen=True)
class Chain:
    """A chain of thought that a model wrote, with its final answer."""

    text: str
    answer: str
    """Empty if the text has no final answer."""
    correct: bool
    """Whether the answer is the one that the source gives."""
    tokens: int
    entropy: float
    """Mean entropy of the distributions of its tokens, in nats."""
    finished: bool
    """Whether the model ended the chain itself, before the limit of tokens."""


@dataclass(frozen=True)
class Vote:
    """The answer that most chains give (in a tie, the first one), and the indices of these."""

    answer: str
    votes: int
    voters: frozenset[int]


def majority(answers: Sequence[str], same: SameAnswer) -> Vote:
    """Self-consistency vote (Wang et al. 2022, section 2). Empty answers do not vote."""
    ballots: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        if answer:
            first = (
                answer
                if answer in ballots
                else next((known for known in ballots if same(known, answer)), answer)
            )
            ballots.setdefault(first, []).append(number)
    if not ballots:
        return Vote("", 0, frozenset())
    elected = max(ballots, key=lambda answer: len(ballots[answer]))
    return Vote(elected, len(ballots[elected]), frozenset(ballots[elected]))


def select_chains(chains: Sequence[Chain], vote: Vote, rules: ChoiceRules) -> list[str]:
    """Why each chain of a question is rejected, one of `REASONS`; empty if it is kept."""
    found = [
        _reason(chain, number in vote.voters, vote.votes / len(chains), rules)
        for number, chain in enumerate(chains)
    ]
    kept: set[str] = set()
    for number in sorted(range(len(chains)), key=lambda number: (chains[number].entropy, number)):
        text = chains[number].text
        if not found[number]:
            found[number] = (
                "repeated" if text in kept else "surplus" if len(kept) == rules.keep else ""
            )
        if not found[number]:
            kept.add(text)
    return found


def _reason(chain: Chain, elected: bool, share: float, rules: ChoiceRules) -> str:
    tests = {
        "unfinished": not chain.finished,
        "no answer": not chain.answer,
        "no majority": rules.accept != "verified" and share < rules.agreement,
        "outvoted": rules.accept != "verified" and not elected,
        "wrong": rules.accept != "majority" and not chain.correct,
        "short": chain.tokens < rules.min_tokens,
        "long": rules.max_tokens is not None and chain.tokens > rules.max_tokens,
        "uncertain": rules.max_entropy is not None and chain.entropy > rules.max_entropy,
    }
    return next((reason for reason, holds in tests.items() if holds), "")
