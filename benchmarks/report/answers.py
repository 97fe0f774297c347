"""What the baseline and the candidate answered to the same questions, from the files of a run.

The questions that are shown are chosen by their place, evenly spread over each task. So a report
shows neither the best nor the worst, and two reports of one recipe show the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...checkpoints.hashing import file_hash
from ...documents import parse_json, read_text
from ...errors import UsageError
from ..metrics import ACCURACY
from ..plain_text import plain
from .ledger_view import Record, metrics_named, name_of, part
from .report_table import ReportCell, ReportColumn, ReportTable

__all__ = ["AnswerPair", "Answers", "answers_of"]

SHOWN = 10
QUESTION = 700
"""Most characters of a question or of what was expected."""
TEXT = 1_200
"""Most characters of an answer."""
TITLE = 72
PREFIX = 40
"""Questions of a task that begin with this many equal characters are told apart by the rest."""
ENDS = ("\n", ". ", ": ")
"""After these, a new sentence begins."""
HINT = "run the recipe again: it measures this step again"
Key = tuple[str, str]
"""Task and question."""


@dataclass(frozen=True)
class AnswerPair:
    """One question with the two answers."""

    task: str
    title: str
    question: str
    expected: str
    before: str
    after: str
    was_right: bool
    is_right: bool


@dataclass(frozen=True)
class Answers:
    """The answers of two steps.

    Attributes:
        before: name of the baseline.
        after: name of the candidate.
        total: how many questions both answered.
        counts: for each task, how many became right and how many became wrong.
        pairs: those that are shown.
        missing: why there is nothing to show; empty if there is.
    """

    before: str
    after: str
    total: int = 0
    counts: ReportTable | None = None
    pairs: Sequence[AnswerPair] = field(default_factory=list[AnswerPair])
    missing: str = ""


def answers_of(run: Path, baseline: Record, candidate: Record) -> Answers | None:
    """The answers of the baseline and the candidate; None if the run had no task.

    Args:
        run: directory of the run.
        baseline: its entry in the ledger.
        candidate: its entry in the ledger.
    """
    sides = (baseline, candidate)
    names = (name_of(baseline), name_of(candidate))
    if baseline is candidate or not all(metrics_named([side], ACCURACY) for side in sides):
        return None
    try:
        before, after = (_read(run, side) for side in sides)
    except UsageError as error:
        return Answers(*names, missing=str(error).replace(str(run), run.name))
    common = [key for key in before if key in after]
    if not common:
        return Answers(*names, missing="The two steps answered no question in common.")
    chosen = list(_spread(common))
    titles = _titles(chosen)
    return Answers(
        *names,
        total=len(common),
        counts=_counts(common, before, after),
        pairs=[_pair(key, titles[key], before[key], after[key]) for key in chosen],
    )


def _read(run: Path, step: Record) -> dict[Key, Mapping[str, Any]]:
    """The answers of a step by task and question, in their order.

    Raises:
        UsageError: they were not kept, or are not as edgewright wrote them.
    """
    samples = step.get("samples")
    name = str(Path(samples).with_suffix(".jsonl")) if isinstance(samples, str) and samples else ""
    file = run / name
    inside = bool(name) and file.resolve().is_relative_to(run.resolve())
    if not inside or not file.is_file():
        raise UsageError(f"The texts of the answers of {name_of(step)} were not kept.", HINT)
    recorded = part(step, "sample_files").get(name)
    if recorded and file_hash(file) != recorded:
        raise UsageError(f"{name} was changed after edgewright wrote it.", HINT)
    found: dict[Key, Mapping[str, Any]] = {}
    for line in read_text(file, HINT).split("\n"):  # answers hold other ends of lines
        answer = parse_json(line, name, HINT, halves=True) if line.strip() else None
        if isinstance(answer, Mapping):
            found[str(answer.get("task", "")), str(answer.get("question", ""))] = answer
    return found


def _spread(keys: Sequence[Key]) -> Iterator[Key]:
    """Ten of the questions, as equally many of each task as there are, in their order."""
    tasks = list(dict.fromkeys(task for task, _ in keys))[:SHOWN]
    for number, task in enumerate(tasks):
        own = [key for key in keys if key[0] == task]
        count = min(len(own), SHOWN // len(tasks) + (number < SHOWN % len(tasks)))
        yield from (own[at * len(own) // count] for at in range(count))


def _titles(keys: Sequence[Key]) -> dict[Key, str]:
    """What tells the questions of one task apart, in one line."""
    found: dict[Key, str] = {}
    for task in dict.fromkeys(task for task, _ in keys):
        own = [key for key in keys if key[0] == task]
        start = _first_difference([question for _, question in own])
        for key in own:
            title = " ".join(plain(key[1][start:], QUESTION).split())
            found[key] = title if len(title) <= TITLE else f"{title[: TITLE - 1]}…"
    return found


def _first_difference(texts: Sequence[str]) -> int:
    """Where the sentence begins in which texts first differ; 0 if that is early, or of one."""
    if len(texts) < 2:
        return 0
    low, high = min(texts), max(texts)  # all others are between them
    letters = enumerate(zip(low, high, strict=False))
    same = next((at for at, (one, other) in letters if one != other), len(low))
    start = max(low.rfind(end, 0, same) + len(end) for end in ENDS)
    return start if start >= PREFIX else 0


def _pair(key: Key, title: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> AnswerPair:
    return AnswerPair(
        task=key[0],
        title=title,
        question=plain(key[1], QUESTION),
        expected=plain(str(before.get("expected", "")).strip(), QUESTION),
        before=plain(str(before.get("text", "")).strip(), TEXT),
        after=plain(str(after.get("text", "")).strip(), TEXT),
        was_right=before.get("correct") is True,
        is_right=after.get("correct") is True,
    )


def _counts(
    keys: Sequence[Key],
    before: Mapping[Key, Mapping[str, Any]],
    after: Mapping[Key, Mapping[str, Any]],
) -> ReportTable:
    """For each task: how many answers stayed right, were lost, were gained, and stayed wrong."""
    counts: dict[str, dict[tuple[bool, bool], int]] = {}
    for key in keys:
        outcome = (before[key].get("correct") is True, after[key].get("correct") is True)
        own = counts.setdefault(key[0], {})
        own[outcome] = own.get(outcome, 0) + 1
    titles = ("right before and after", "lost", "gained", "wrong before and after")
    outcomes = ((True, True), (True, False), (False, True), (False, False))
    tones = ("", "bad", "good", "")
    rows = [
        [
            ReportCell(task),
            *(
                ReportCell(f"{own.get(outcome, 0):,}", tone=tone if own.get(outcome) else "")
                for outcome, tone in zip(outcomes, tones, strict=True)
            ),
        ]
        for task, own in counts.items()
    ]
    columns = [ReportColumn("task", numeric=False), *map(ReportColumn, titles)]
    return ReportTable(columns, rows)
