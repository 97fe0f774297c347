"""The gate's result as Markdown: for a comment on a pull request, and for a job's summary.

It uses what GitHub and GitLab both show in a comment: tables, a folded section, and a Mermaid
chart. They drop inline SVG and `data:` images. So the picture of an interval is drawn in text,
which an e-mail shows too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..metric import Metric
from ..metrics import find, format_value, why_unlike
from ..plain_text import escape_markdown, plain
from .result_files import NOT_COMPARED, interval_rule, interval_text

__all__ = ["MARKS", "MOST_BYTES", "drawing", "markdown_text"]

MARKS = {"pass": "✅ pass", "fail": "❌ **fail**", "inconclusive": "⚠️ inconclusive"}
ORDER = ("fail", "inconclusive", "pass")
MOST_BYTES = 60_000
"""Of the Markdown. GitHub refuses a comment of more than 65,536 characters."""
COLUMNS = (
    "verdict",
    "metric",
    "baseline",
    "candidate",
    "observed",
    "interval",
    "limit",
    "interval and limit ┃",
    "samples",
)
DRAWN = 17
"""Characters of the drawing of an interval."""
MARGIN = 0.15
"""Share of the drawing that is left free on each side."""
BARS = 12
"""Most bars of the chart."""
LABEL = 28
"""Most characters of a bar's label."""
NOT_A_LABEL = re.compile(r"[^A-Za-z0-9_ ./+-]+")
"""What a label of a Mermaid chart cannot hold without becoming syntax."""


@dataclass(frozen=True)
class _Change:
    """A metric that both sides have, and how it changed."""

    name: str
    metric: Metric
    old: float
    new: float

    @property
    def percent(self) -> float | None:
        """By how much it is more than before; None without a finite share."""
        if self.old == 0 or not (math.isfinite(self.old) and math.isfinite(self.new)):
            return None
        return 100 * (self.new / self.old - 1)

    @property
    def words(self) -> str:
        """The change in percent, and which way it goes."""
        if self.new == self.old:
            return "equal"
        if self.percent is None:
            return "-"
        better = {"higher": self.new > self.old, "lower": self.new < self.old}
        side = better.get(self.metric.better)
        word = "" if side is None else " (better)" if side else " (worse)"
        return f"{self.percent:+.3g} %{word}"


def markdown_text(
    gate: Mapping[str, Any], candidate: Mapping[str, Any], baseline: Mapping[str, Any]
) -> str:
    """The result of a gate for people: what was checked, and what else changed.

    Of a result that is too long for a comment, the first lines are kept, failures first.

    Args:
        gate: what `check_gate` returned.
        candidate: the measurement that was judged.
        baseline: the measurement that it was compared with.
    """
    changes = list(_changes(candidate, baseline))
    checked = {check["metric"] for check in gate["checks"]}
    other = [change for change in changes if change.name not in checked]
    rule = f"\n{_rule(gate)}\n"
    parts = [_heading(gate), *_rows(gate), *_notes(gate), *_folded(changes, other)]
    kept = _that_fit(parts, MOST_BYTES - len(rule.encode()))
    return "".join(kept) + rule


def _heading(gate: Mapping[str, Any]) -> str:
    lines = [
        f"### edgewright gate: {MARKS[gate['verdict']]}",
        "",
        f"{escape_markdown(gate['candidate'])} against {escape_markdown(gate['baseline'])}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + " --- |" * len(COLUMNS),
        "",
    ]
    return "\n".join(lines)


def _rows(gate: Mapping[str, Any]) -> list[str]:
    checks = sorted(gate["checks"], key=lambda check: ORDER.index(check["verdict"]))
    return [f"| {' | '.join(_row(check))} |\n" for check in checks]


def _row(check: Mapping[str, Any]) -> list[str]:
    drawn = drawing(check)
    texts = (
        check["metric"],
        _value(check["baseline"]),
        _value(check["candidate"]),
        _value(check["observed"]),
        interval_text(check),
        check["limit"],
    )
    return [
        MARKS[check["verdict"]],
        *map(escape_markdown, texts),
        f"`{drawn}`" if drawn else "-",
        escape_markdown(_samples(check)),
    ]


def drawing(check: Mapping[str, Any]) -> str:
    """The interval of a check and its limit as text: `··├──●──┤·┃░░░░░`.

    The shaded side is beyond the limit. Empty where there is nothing finite to draw.
    """
    observed = check["observed"]
    if observed is None or not math.isfinite(observed):
        return ""
    *_, sign, number = check["limit"].split()
    limit = float(number)
    low, high = check["interval"] or (observed, observed)
    known = [value for value in (low, high, observed, limit) if value is not None]
    span = max(known) - min(known) or abs(limit) or 1.0
    start = min(known) - MARGIN * span

    def place(value: float) -> int:
        return round((value - start) / (span * (1 + 2 * MARGIN)) * (DRAWN - 1))

    edge = place(limit)
    drawn = ["░" if (at > edge) == (sign == "<=") else "·" for at in range(DRAWN)]
    first = 0 if low is None else place(low)
    last = DRAWN - 1 if high is None else place(high)
    if check["interval"] and first < last:
        drawn[first : last + 1] = "─" * (last + 1 - first)
        drawn[first] = "◂" if low is None else "├"
        drawn[last] = "▸" if high is None else "┤"
    drawn[edge] = "┃"
    drawn[place(observed)] = "●"
    return "".join(drawn)


def _notes(gate: Mapping[str, Any]) -> list[str]:
    notes = dict.fromkeys(f"{c['metric']}: {c['note']}" for c in gate["checks"] if c["note"])
    lost = [f"{name}: {NOT_COMPARED}" for name in gate.get("missing", [])]
    listed = [f"- {escape_markdown(note)}\n" for note in [*notes, *lost]]
    return ["\n" + listed[0], *listed[1:]] if listed else []


def _changes(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[_Change]:
    """The declared metrics that both sides have and that may be compared."""
    for name, old in baseline["metrics"].items():
        metric = find(name)
        new = candidate["metrics"].get(name)
        if metric is None or new is None or name.endswith(("/n", "/stderr", "/cv")):
            continue
        if not why_unlike(name, candidate["context"], baseline["context"]):
            yield _Change(name, metric, old, new)


def _folded(changes: Sequence[_Change], other: Sequence[_Change]) -> list[str]:
    """One section, folded at first, with what has no limit and with a chart of all changes."""
    chart = _chart(changes)
    if not other and not chart:
        return []
    rows = [
        f"| {escape_markdown(change.name)} | {format_value(change.name, change.old, unit=True)} "
        f"| {format_value(change.name, change.new, unit=True)} | {change.words} |\n"
        for change in other
    ]
    heading = "| without a limit | baseline | candidate | change |\n|" + " --- |" * 4 + "\n"
    table = [heading, *rows, "\n"] if rows else []
    section = ["\n<details><summary>What changed</summary>\n\n", *table, chart, "</details>\n"]
    return ["".join(section)]


def _chart(changes: Sequence[_Change]) -> str:
    """A Mermaid chart of the candidate in percent of the baseline, the largest changes first.

    Bars begin at zero: Mermaid draws a negative bar from the end of the axis. Empty if nothing
    changed.
    """
    known = [(change, change.percent) for change in changes if change.percent]
    largest = sorted(known, key=lambda pair: -abs(pair[1] or 0))[:BARS]
    shares = [100 + (percent or 0) for _, percent in largest]
    if not shares or min(shares) < 0:
        return ""
    labels = ", ".join(f'"{number} {_label(one)}"' for number, (one, _) in enumerate(largest, 1))
    return "\n".join(
        [
            "```mermaid",
            "xychart-beta horizontal",
            '    title "candidate in % of the baseline (the line is at 100 %)"',
            f"    x-axis [{labels}]",
            f'    y-axis "% of the baseline" 0 --> {max(110, *shares):.0f}',
            f"    bar [{', '.join(f'{share:.2f}' for share in shares)}]",
            f"    line [{', '.join(['100'] * len(shares))}]",
            "```",
            "",
        ]
    )


def _label(change: _Change) -> str:
    return " ".join(NOT_A_LABEL.sub(" ", plain(change.name)).split())[:LABEL]


def _that_fit(parts: Sequence[str], most: int) -> list[str]:
    """The first parts that have this many bytes together, and a line that says what is missing."""
    kept: list[str] = []
    size = 0
    for number, part in enumerate(parts):
        size += len(part.encode(errors="replace"))
        if size > most:
            missing = len(parts) - number
            kept.append(f"\n{missing:,} more lines did not fit; `--json` and `--junit` have all.\n")
            break
        kept.append(part)
    return kept


def _rule(gate: Mapping[str, Any]) -> str:
    """How the verdicts were decided, in words."""
    effect = {"pass": "counts as passed", "warn": "is a warning", "fail": "counts as failed"}[
        gate["inconclusive"]
    ]
    return (
        f"Each end of an interval is a one-sided bound at {gate['confidence']:.4g}:"
        f" {interval_rule(gate['confidence'])}"
        f" (paired bootstrap, {gate['resamples']:,} resamples)."
        " Wholly beyond the limit fails, wholly within it passes;"
        f" anything between is inconclusive and {effect}."
    )


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _samples(check: Mapping[str, Any]) -> str:
    if not check["samples"]:
        return "-"
    needed = check["samples_needed"]
    return f"{check['samples']:,}" + (f", needs about {needed:,}" if needed else "")
