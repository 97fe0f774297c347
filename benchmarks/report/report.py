"""The report of a run, from its ledger alone: a self-contained HTML page, and the same as Markdown.

Sections without data are left out, and a dash stands for a missing metric. Steps that were measured
on other data, on another device or with other threads than the baseline keep their row in the
table, but no comparison uses them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...checkpoints.atomic_files import write_text
from ...checkpoints.outputs import LEDGER, REPORTS
from ...documents import to_yaml
from ..gate.result_files import interval_text
from ..ledger_files import read_ledger
from ..metrics import ACCURACY, HEADLINES, find, format_value
from ..missing_tasks import missing_tasks
from ..number_format import DASH, significant
from ..unconfined import unconfined_tasks
from .answers import Answers, answers_of
from .chain import Link, Paired, chain_of
from .detail_tables import (
    conditions_of,
    experts_table,
    flatten,
    parity_table,
    plan_table,
    worst_modules,
)
from .device_summary import device_summary
from .differences import paired_by_step
from .ledger_view import (
    Record,
    are_comparable,
    metric_of,
    metrics_named,
    name_of,
    number,
    parents_of,
    part,
    steps_of,
)
from .loss_warnings import loss_warnings
from .pages import html_page, markdown_page
from .step_tables import short_title, steps_table

if TYPE_CHECKING:
    from .charts import Plot  # matplotlib

__all__ = ["RunFiles", "plots_of", "render_html", "render_markdown", "write_report"]


@dataclass(frozen=True)
class RunFiles:
    """What the files beside a ledger add to a report.

    Attributes:
        paired: for each step, the checks on the samples that it shares with its parent.
        answers: those of the baseline and the candidate; None if the run had no task.
    """

    paired: Paired = field(default_factory=dict[str, Any])
    answers: Answers | None = None

    @classmethod
    def read(cls, run_dir: Path, ledger: Record) -> RunFiles:
        """Read the samples and the answers of a run."""
        paired = paired_by_step(run_dir, ledger, parents_of(steps_of(ledger)))
        return cls(paired, answers_of(run_dir, *_ends(ledger)))


NO_FILES = RunFiles()


def write_report(run_dir: Path) -> list[Path]:
    """Write report.html and report.md into a run directory, atomically; returns their paths.

    Raises:
        UsageError: there is no ledger, it is damaged, or another version of edgewright wrote it.
        EdgewrightError: the report cannot be written.
    """
    ledger = read_ledger(run_dir / LEDGER)
    files = RunFiles.read(run_dir, ledger)
    paths = []
    for name, render in zip(REPORTS, (render_html, render_markdown), strict=True):
        write_text(run_dir / name, render(ledger, files))
        paths.append(run_dir / name)
    return paths


def render_html(ledger: dict[str, Any], files: RunFiles = NO_FILES) -> str:
    """The report as one HTML page that needs no network, no script and no other file."""
    steps = steps_of(ledger)
    plots = plots_of(steps, _ends(ledger)[0], parents_of(steps))
    sections = _sections(ledger, files)
    pictures = _pictures(sections["chain"])
    return html_page("report.html", plots=plots, pictures=pictures, **sections)


def render_markdown(ledger: dict[str, Any], files: RunFiles = NO_FILES) -> str:
    """The report as Markdown, without charts: for a pull request or the summary of a CI job."""
    return markdown_page("report.md", **_sections(ledger, files))


def _pictures(chain: Sequence[Link]) -> list[str]:
    """The chain as SVG, for wide pages and for phones."""
    if not chain:
        return []
    from .chain_picture import NARROW, WIDE, chain_svg  # late, as the charts

    return [chain_svg(chain, form) for form in (WIDE, NARROW)]


def plots_of(
    steps: Sequence[Record],
    baseline: Record,
    parents: Mapping[str, str],
    parent: str = "the step that it started from",
) -> list[Plot]:
    """The charts of some steps, without what cannot be compared with the baseline.

    Args:
        steps: entries of ledgers.
        baseline: one of them.
        parents: for each step, the name of the one that its bars are compared with.
        parent: what that one is, in words.
    """
    from .charts import MeasuredStep, charts_of  # late: matplotlib is slow, Markdown needs none

    measured = []
    for step in steps:
        values = {name: metric_of(step, name) for name in part(step, "metrics")}
        finite = {
            name: value
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        }
        unlike = frozenset(name for name in finite if not are_comparable(step, baseline, name))
        name = name_of(step)
        parts = (part(step, "details"), part(step, "context"))
        measured.append(MeasuredStep(name, finite, unlike, *parts, parents.get(name, "")))
    return charts_of(measured, metrics_named(steps, ACCURACY), parent)


def _sections(ledger: Record, files: RunFiles) -> dict[str, Any]:
    """Everything that the templates show, except for the charts."""
    steps = steps_of(ledger)
    gate = part(ledger, "gate")
    recipe = part(ledger, "recipe")
    plan = part(ledger, "plan")
    baseline, candidate = _ends(ledger)
    tables = [worst_modules(step) for step in steps]
    roles = _roles(baseline, candidate)
    return {
        "title": str(recipe.get("name") or recipe.get("model") or "unnamed run"),
        "model": recipe.get("model"),
        "created": _date(ledger.get("created")),
        "version": ledger.get("edgewright"),
        "commands": _commands(ledger),
        "verdict": gate.get("verdict"),
        "device": device_summary(plan, name_of(candidate)),
        "warnings": [
            *(("measurement", note) for note in _measurement_notes(steps)),
            *loss_warnings(steps),
        ],
        "gate": gate,
        "checks": [_check(check) for check in gate.get("checks") or []],
        "headline": _headline(baseline, candidate),
        "chain": chain_of(steps, roles, files.paired),
        "steps": steps_table(steps, roles) if steps else None,
        "answers": files.answers,
        "modules": [table for table in tables if table],
        "experts": experts_table(steps),
        "parity": parity_table(steps),
        "target": plan.get("target") or recipe.get("target"),
        "plan": plan_table(plan),
        "notes": [(name_of(step), notes) for step in steps if (notes := _notes(step))],
        "contexts": conditions_of(steps) if steps else None,
        "environment": list(flatten(part(ledger, "environment"))),
        "recipe": _yaml(ledger.get("recipe") or ""),
    }


def _measurement_notes(steps: Sequence[Record]) -> list[str]:
    """What to say about the measurements of all steps."""
    metrics = [name for step in steps for name in part(step, "metrics")]
    return [*missing_tasks(metrics), *unconfined_tasks(part(step, "context") for step in steps)]


def _notes(step: Record) -> list[str]:
    """What a step, and the measurement of its result, have to say."""
    return [str(note) for key in ("notes", "measurement_notes") for note in step.get(key) or ()]


def _yaml(recipe: Any) -> str:
    if isinstance(recipe, str):
        return recipe
    return to_yaml(recipe)


def _ends(ledger: Record) -> tuple[Record, Record]:
    """The baseline and the candidate.

    They are those of the gate, or else the first step and the last one that was measured.
    """
    steps = steps_of(ledger)
    gate = part(ledger, "gate")
    by_name = {name_of(step): step for step in steps}
    measured = [step for step in steps if part(step, "metrics")] or [{}]
    baseline = by_name.get(str(gate.get("baseline")), measured[0])
    return baseline, by_name.get(str(gate.get("candidate")), measured[-1])


def _roles(baseline: Record, candidate: Record) -> dict[str, str]:
    """The words beside the names of the two steps that the report compares."""
    roles = {} if candidate is baseline else {name_of(candidate): "candidate"}
    if name_of(baseline) != "baseline":
        roles[name_of(baseline)] = "baseline"
    return roles


def _commands(ledger: Record) -> str:
    """The commands that reproduce the run: the versions that matter, and the run of its recipe."""
    environment = part(ledger, "environment")
    versions = [
        f"{name}=={str(environment[name]).partition('+')[0]}"
        for name in ("torch", "transformers", "onnxruntime")
        if environment.get(name)
    ]
    lines = []
    if versions:
        lines.append(f"pip install edgewright=={ledger.get('edgewright')} {' '.join(versions)}")
    if ledger.get("recipe"):
        lines.append(
            "edgewright run recipe.yaml    # the recipe below, with every default and --set in it"
        )
    if command := ledger.get("command"):
        lines.append(f"# as it was run: {command}")
    return "\n".join(lines)


def _date(created: Any) -> str:
    try:
        return datetime.fromisoformat(str(created)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(created or "")


def _check(check: Record) -> dict[str, Any]:
    """One check of the gate as text: limit, observed value, evidence, and both sides."""
    name = str(check.get("metric", DASH))
    sides = [number(check.get(key)) for key in ("baseline", "candidate")]
    evidence = []
    samples, needed = (number(check.get(key)) for key in ("samples", "samples_needed"))
    if check.get("interval") and samples is not None:
        evidence.append(f"{interval_text(check)} on {samples:,} samples")
    if needed:
        evidence.append(f"about {needed:,} samples would decide")
    if check.get("note"):
        evidence.append(str(check["note"]))
    older = "pass" if check.get("passed") else "fail"  # older ledgers have `passed` only
    return {
        "metric": name,
        "pair": [format_value(name, side, unit=True) for side in sides],
        "limit": check.get("limit", DASH),
        "observed": significant(number(check.get("observed"))),
        "verdict": str(check.get("verdict") or older),
        "evidence": "; ".join(evidence),
    }


def _headline(baseline: Record, candidate: Record) -> list[dict[str, str]]:
    """The cards on top: main metrics from baseline to candidate, where the two are comparable."""
    if baseline is candidate:
        return []
    accuracies = metrics_named([baseline, candidate], ACCURACY)[:2]
    cards = []
    for name in (*accuracies, *HEADLINES):
        metric = find(name)
        before = metric_of(baseline, name)
        after = metric_of(candidate, name)
        if metric is None or before is None or after is None:
            continue
        if not are_comparable(baseline, candidate, name):
            continue
        is_share = metric.style == "share"
        contexts = [part(step, "context") for step in (baseline, candidate)]
        if not metric.has_factor(*contexts):
            change = f"in {contexts[0].get('backend')}"
        elif before and not is_share:
            change = f"{significant(after / before)}×"
        else:
            change = f"{after - before:+.3f}"
        cards.append(
            {
                "label": short_title(name),
                "before": metric.format(before, unit=True),
                "after": metric.format(after, unit=True),
                "change": change,
            }
        )
    return cards
