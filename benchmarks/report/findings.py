"""Which of two measurements is better, by how much and how sure: one sentence for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..number_format import significant
from .differences import Difference, Outcome, judge
from .ledger_view import Record, name_of, number, part
from .step_tables import short_title, shown_metrics

__all__ = ["Comparison", "Finding", "compare_with_first"]

ORDER: tuple[Outcome, ...] = ("better", "worse", "open", "same")
WORDS = {
    "better": "is better in",
    "worse": "is worse in",
    "open": "cannot be told apart in",
    "same": "is the same in",
}
MARKS = {"better": "✓", "worse": "✗", "open": "?", "same": "="}


@dataclass(frozen=True)
class Finding:
    """One metric: the outcome, and the sentence about it."""

    outcome: Outcome
    mark: str
    text: str


@dataclass(frozen=True)
class Comparison:
    """A run against the first one: a sentence about all metrics, and one about each."""

    name: str
    summary: str
    findings: Sequence[Finding]


def compare_with_first(
    one: Record, first: Record, paired: Mapping[str, Mapping[str, Any]]
) -> Comparison:
    """Compare one run with the first.

    Args:
        one: the step of a run, named as people know it.
        first: that of the first run.
        paired: what `differences` says about the two.
    """
    found: list[Finding] = []
    counts: dict[Outcome, list[str]] = {outcome: [] for outcome in ORDER}
    for _, name in shown_metrics([one, first]):
        check = paired.get(name, {})
        difference = judge(name, one, first, check)
        if difference is not None:
            found.append(_finding(difference, one, first))
            counts[difference.outcome].append(short_title(name))
        elif "unlike" in check:
            text = f"{short_title(name)}: not comparable: {check['unlike']}."
            found.append(Finding("open", MARKS["open"], text))
            counts["open"].append(short_title(name))
    found.sort(key=lambda finding: ORDER.index(finding.outcome))
    return Comparison(name_of(one), _summary(one, first, counts), found)


def _summary(one: Record, first: Record, counts: Mapping[Outcome, Sequence[str]]) -> str:
    """Which metrics are better, worse and open, in one sentence."""
    parts = [f"{WORDS[outcome]} {', '.join(names)}" for outcome, names in counts.items() if names]
    if not parts:
        return f"{name_of(one)} and {name_of(first)} have no metric that can be compared."
    return f"Against {name_of(first)}, {name_of(one)} {'; '.join(parts)}."


def _finding(difference: Difference, one: Record, first: Record) -> Finding:
    metric = difference.metric
    title = short_title(difference.name)
    values = (
        f"{metric.format(difference.value, unit=True)} against "
        f"{metric.format(difference.other, unit=True)}"
    )
    if difference.other_runtime:
        runtimes = " and ".join(str(part(side, "context").get("backend")) for side in (one, first))
        text = f"{title} is not compared, because the runtimes differ ({runtimes}): {values}."
    else:
        text = f"{title} is {_how_much(difference)}: {values}{_how_sure(difference)}."
    return Finding(difference.outcome, MARKS[difference.outcome], text)


def _how_much(difference: Difference) -> str:
    """The change in words, or that there is none."""
    metric = difference.metric
    if difference.outcome == "same" or not difference.other:
        return "the same" if difference.outcome == "same" else difference.outcome
    if metric.style == "share":
        text = _amount(difference.value - difference.other, percent=False)
    elif difference.paired is not None:
        text = _amount(difference.value / difference.other - 1, percent=True)
    else:
        text = f"{significant(difference.value / difference.other)}×"
    if difference.outcome != "open":
        return text
    cause = "noise" if metric.conditions.factor else "chance"
    return f"{text}, which {cause} may explain"


def _how_sure(difference: Difference) -> str:
    """The interval of the change and the samples behind it, or that there are none."""
    paired = difference.paired
    if paired is None:
        if difference.outcome == "same":
            return ""
        if difference.metric.style == "share":
            return " (no samples of both, so without an interval)"
        is_timed = bool(difference.metric.conditions.factor)
        return " (measured once each, so without an interval)" if is_timed else ""
    ends = [number(end) for end in paired["interval"]]
    text = f"paired on {paired['samples']:,} samples"
    if ends[0] != ends[1]:
        text = f"{_between(ends, is_drop=paired.get('quantity') == 'drop')}; {text}"
    if paired.get("samples_needed"):
        text += f", about {paired['samples_needed']:,} would decide"
    return f" ({text})"


def _amount(change: float, *, percent: bool) -> str:
    """A change with its direction in words: `0.100 lower`, `8.3 % higher`."""
    return f"{_size(change, percent=percent)} {'higher' if change >= 0 else 'lower'}"


def _size(change: float, *, percent: bool) -> str:
    return f"{100 * abs(change):.3g} %" if percent else f"{abs(change):.3f}"


def _between(ends: Sequence[float | None], *, is_drop: bool) -> str:
    """The bounds of a change.

    Args:
        ends: those of a drop, which is the first's value less that of this run, or those of a
            ratio, which is this run's value by the first's; None for no bound.
        is_drop: which of the two.
    """
    percent = not is_drop
    changes = sorted((-end if is_drop else end - 1) for end in ends if end is not None)
    if len(changes) < 2:
        known = "".join(_amount(change, percent=percent) for change in changes)
        return f"one bound only: {known}" if known else "without bounds"
    low, high = changes
    if (low < 0) == (high < 0):
        near, far = sorted((abs(low), abs(high)))
        return f"{_size(near, percent=percent)} to {_size(far, percent=percent)}"
    return f"from {_amount(low, percent=percent)} to {_amount(high, percent=percent)}"
