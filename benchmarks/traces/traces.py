"""Make training data from a teacher's chains of thought: sample, verify, vote, filter, write."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...checkpoints.artifacts import is_artifact
from ...checkpoints.atomic_files import write_text
from ...data.shortfall import shortfall
from ...data.sources import Source
from ...errors import UsageError
from ...steps.workspace import workspace
from ..bootstrap import share_error
from .chains import ask_teacher
from .options import TracesOptions
from .teacher_questions import Question, read_questions
from .votes import REASONS, Chain, Vote, majority, select_chains

__all__ = ["WORK", "make_traces", "missing_questions"]

WORK = "chains"
"""Kind of the workspace of an unfinished run."""
CHAINS = "chains.jsonl"
"""The file of an unfinished run: one line for each answered question."""
MAX_DOUBTED = 100
"""The most doubtful rows that a report lists."""


def make_traces(
    options: TracesOptions,
    model: Path,
    teacher: str,
    out: Path,
    seed: int,
    device: str,
    depends_on: Mapping[str, Any],
    announce: Callable[[str, dict[str, Any]], None],
    fresh: bool = False,
) -> dict[str, Any]:
    """Let a teacher answer questions several times, and write the good answers to a JSONL file.

    A line has `prompt` and `completion`, which distillation reads, and where the answer is from.

    Args:
        options: the questions, the sampling, and which chains are kept.
        model: the teacher's directory.
        teacher: the teacher's content hash.
        out: the file to write.
        seed: seed of the sampling and of built-in questions.
        device: device for torch.
        depends_on: everything that the result depends on. An interrupted run with the same values
            is resumed; without any values none is.
        announce: called with the hash of the file and the report before the file is written.
        fresh: do not resume an interrupted run.

    Returns:
        The report: counts, accuracy by chain and by vote, and why chains were rejected.

    Raises:
        UsageError: no questions, the teacher is no checkpoint, or no token ends its answers.
    """
    if is_artifact(model):
        raise UsageError(
            f"{model}: an exported model cannot be sampled from",
            "give the checkpoint that it was made from",
        )
    questions, repeated = read_questions(options.prompts, options.limit, seed)
    with workspace(out, WORK, depends_on, CHAINS, fresh) as place:
        answered = ask_teacher(options, questions, model, seed, device, place / CHAINS)
        lines, counts = _select(options, questions, [answered[one.row] for one in questions])
        report = {"output": str(out), **_asked(options, len(questions), repeated), **counts}
        text = _text(lines, options, teacher, seed)
        announce(hashlib.sha256(text.encode()).hexdigest(), report)
        write_text(out, text)
    return report


def _text(lines: list[dict[str, Any]], options: TracesOptions, teacher: str, seed: int) -> str:
    """The content of the file: one JSON object per line, with where it is from."""
    sampling = {name: getattr(options, name) for name in ("chains", "temperature", "top_p")}
    origin = {"teacher": teacher, "seed": seed, "sampling": sampling}
    text = "".join(json.dumps(line | origin, ensure_ascii=False) + "\n" for line in lines)
    return text.encode("utf-8", "replace").decode()


def _asked(options: TracesOptions, questions: int, repeated: int) -> dict[str, Any]:
    """How many questions were asked, for the report."""
    notes = missing_questions(options, questions)
    return {"notes": notes, "questions": questions, "repeated_questions": repeated}


def missing_questions(options: TracesOptions, questions: int) -> list[str]:
    """A note if fewer questions were asked than `limit`."""
    return shortfall(questions, options.limit, "questions", f"{options.prompts} holds no more")


def _select(
    options: TracesOptions, questions: Sequence[Question], answered: Sequence[list[Chain]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Choose the chains to keep; returns the lines to write, and the report."""
    label = Source.parse(options.prompts).label
    lines: list[dict[str, Any]] = []
    doubted: list[dict[str, Any]] = []
    rejected = Counter[str]()
    right_votes = 0
    with_traces = 0
    for question, chains in zip(questions, answered, strict=True):
        vote = majority([chain.answer for chain in chains], question.same)
        reasons = select_chains(chains, vote, options)
        vote_is_right = any(chains[number].correct for number in vote.voters)
        right_votes += vote_is_right
        if not vote_is_right and vote.votes >= max(2, options.agreement * len(chains)):
            doubted.append(_doubted(question, vote))
        kept = [
            _line(question, number, chain, vote, label)
            for number, chain in enumerate(chains)
            if not reasons[number]
        ]
        with_traces += bool(kept)
        lines += kept
        rejected.update(filter(None, reasons))
    every = [chain for chains in answered for chain in chains]
    share = right_votes / len(questions)
    report = {
        "chains": len(every),
        "tokens": sum(chain.tokens for chain in every),
        "kept": len(lines),
        "questions_with_traces": with_traces,
        "rejected": {reason: rejected[reason] for reason in REASONS if rejected[reason]},
        "pass@1": sum(chain.correct for chain in every) / len(every),
        f"maj@{options.chains}": share,
        "stderr": share_error(share, len(questions)),
        "doubted_rows": doubted[:MAX_DOUBTED],
        "doubted": len(doubted),
    }
    return lines, report


def _doubted(question: Question, vote: Vote) -> dict[str, Any]:
    """A row whose answer in the source may be wrong: most chains agree on another one."""
    return {
        "row": question.row,
        "expected": question.expected,
        "elected": vote.answer,
        "votes": vote.votes,
    }


def _line(question: Question, number: int, chain: Chain, vote: Vote, label: str) -> dict[str, Any]:
    """A line of the training data."""
    verdict = "verified" if chain.correct else "majority"
    return {
        "prompt": question.text,
        "completion": chain.text,
        "answer": chain.answer,
        "verdict": verdict,
        "votes": vote.votes,
        "tokens": chain.tokens,
        "entropy": chain.entropy,
        "chain": number,
        "source": {"data": label, "row": question.row},
    }
