"""The chain of a run: what each step bought and cost, against the step that it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..metrics import ACCURACY, HEADLINES, require
from ..number_format import significant
from .differences import Difference, judge
from .ledger_view import (
    Record,
    metric_of,
    metrics_named,
    name_of,
    number,
    parents_of,
    part,
)
from .step_tables import metric_text, short_title

__all__ = ["Change", "Link", "chain_of", "chain_sentence"]

PERPLEXITY = "perplexity/<data>"
MOST_ACCURACIES = 3
"""Of a step; a chain is a summary, and the table of the steps has all."""
ACCURACY_METRIC = require(ACCURACY, "chain")
Paired = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""For each step and metric, the check on the samples that it shares with its parent."""


@dataclass(frozen=True)
class Change:
    """One metric of a step beside that of its parent: `size`, `988 MB → 469 MB (0.475×)`."""

    label: str
    values: str


@dataclass(frozen=True)
class Link:
    """One step of the chain.

    Attributes:
        parent: name of the step that it started from; empty: it starts a chain.
        made: its kind, and what making it took.
        bought: what became better.
        cost: what became worse.
        open: what chance, noise or another runtime may explain.
        facts: the figures of a step without a parent.
    """

    name: str
    parent: str
    made: str
    role: str = ""
    bought: Sequence[Change] = field(default_factory=list[Change])
    cost: Sequence[Change] = field(default_factory=list[Change])
    open: Sequence[Change] = field(default_factory=list[Change])
    facts: Sequence[Change] = field(default_factory=list[Change])


def chain_of(
    steps: Sequence[Record], roles: Mapping[str, str], paired: Paired | None = None
) -> list[Link]:
    """The steps of a run as a chain; empty if fewer than two were measured.

    Args:
        steps: entries of the ledger.
        roles: a word beside the name of some steps, by name.
        paired: what `paired_by_step` found; without it, standard errors decide.
    """
    if sum(bool(part(step, "metrics")) for step in steps) < 2:
        return []
    parents = parents_of(steps)
    by_name = {name_of(step): step for step in steps}
    names = _chosen(steps)
    links = []
    for step in steps:
        name = name_of(step)
        parent = by_name.get(parents.get(name, ""))
        checks = (paired or {}).get(name, {})
        links.append(_link(step, parent, names, checks, roles.get(name, "")))
    return links


def _chosen(steps: Sequence[Record]) -> list[str]:
    """The metrics of the chain: accuracies, else perplexities, then size, speed and memory."""
    quality = metrics_named(steps, ACCURACY) or metrics_named(steps, PERPLEXITY)
    return [*quality[:MOST_ACCURACIES], *HEADLINES]


def _link(
    step: Record,
    parent: Record | None,
    names: Sequence[str],
    checks: Mapping[str, Mapping[str, Any]],
    role: str,
) -> Link:
    if parent is None:
        known = [name for name in names if metric_of(step, name) is not None]
        facts = [Change(_label(name), metric_text(step, name, unit=True)) for name in known]
        return Link(name_of(step), "", _made(step), role, facts=facts)
    found = [judge(name, step, parent, checks.get(name)) for name in names]
    known = [difference for difference in found if difference is not None]
    groups = [
        [_change(one) for one in known if one.outcome == outcome and not one.other_runtime]
        for outcome in ("better", "worse", "open")
    ]
    if elsewhere := [_label(one.name) for one in known if one.other_runtime]:
        groups[-1].append(Change(", ".join(elsewhere), "new runtime"))
    return Link(name_of(step), name_of(parent), _made(step), role, *groups)


def _label(name: str) -> str:
    """A metric's short title; an accuracy is called by its task."""
    task = (ACCURACY_METRIC.parts(name) or {}).get("task")
    return task or short_title(name)


def _change(difference: Difference) -> Change:
    metric = difference.metric
    label = _label(difference.name)
    after = metric.format(difference.value, unit=True)
    before = metric.format(difference.other)
    values = f"{before} → {after}"
    if metric.style != "share" and difference.other:
        values += f" ({significant(difference.value / difference.other)}×)"
    return Change(label, values)


def _made(step: Record) -> str:
    """Kind of a step, and the time and the memory that it took: `quantize, 17 min, 4.35 GB`."""
    seconds = number(step.get("seconds"))
    peak = number(step.get("peak_rss_bytes"))
    kind = str(step.get("kind") or "")
    said = [kind if kind != name_of(step) else ""]
    if seconds:
        said.append(duration(seconds))
    if peak:
        said.append(f"{significant(peak / 1e9)} GB")
    return ", ".join(filter(None, said))


def duration(seconds: float) -> str:
    """A time as people say it: `38 s`, `17 min`, `2.5 h`."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.5 * size:
            value = seconds / size
            return f"{value:,.{1 if value < 10 else 0}f} {unit}"
    return f"{seconds:,.{0 if seconds >= 10 else 1}f} s"


def chain_sentence(links: Sequence[Link]) -> str:
    """Which step started from which, for those who do not see the picture."""
    pairs = [f"{link.name} from {link.parent}" for link in links if link.parent]
    return "The chain of steps: " + ", ".join(pairs)
