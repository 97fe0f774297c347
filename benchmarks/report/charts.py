"""Chooses the charts of a run: waterfalls, trade-offs with a Pareto front, heat maps, losses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..metric import Metric
from ..metrics import CHARTS, METRICS, TRADE_OFFS
from .loss_warnings import held_out_of, held_out_rise, rise_of
from .pareto import pareto_optimal
from .plots import bars, curve, dots, heat_map
from .scatter_plot import Point, scatter

__all__ = ["MeasuredStep", "Plot", "charts_of"]

MAX_NAMES = 6
"""Most names beside the dots of a scatter plot; more steps than that get numbers."""
BY_PATTERN: Mapping[str, Metric] = {metric.pattern: metric for metric in METRICS}


@dataclass(frozen=True)
class MeasuredStep:
    """One step as the charts need it."""

    name: str
    metrics: Mapping[str, float]
    """The finite ones."""
    unlike: frozenset[str]
    """The metrics that cannot be compared with the baseline's."""
    details: Mapping[str, Any]
    """Of the step's ledger entry."""
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What it was measured with."""
    source: str = ""
    """Name of the step that its bars are compared with; empty: there is none."""

    def has(self, name: str) -> bool:
        """Whether the step has this metric, comparable with the baseline's."""
        return name in self.metrics and name not in self.unlike


@dataclass(frozen=True)
class Plot:
    """A drawn chart with its heading and its caption."""

    title: str
    caption: str
    svg: str
    training: bool = False
    """Whether it shows a training, which has a section of its own."""
    warnings: Sequence[str] = ()


def charts_of(steps: Sequence[MeasuredStep], accuracies: Sequence[str], parent: str) -> list[Plot]:
    """Every chart that the numbers of a run allow, in the order of the report.

    Args:
        steps: of a run, or of several.
        accuracies: the metrics to set against size and speed.
        parent: what a step's `source` is, in words.
    """
    plots = [
        _accuracies(steps, accuracies),
        *(_waterfall(steps, name, parent) for name in CHARTS),
        *(_trade_off(steps, name, other) for name in accuracies for other in TRADE_OFFS),
    ]
    for step in steps:
        plots += [_importance(step), _module_errors(step), *_losses(step)]
    return [plot for plot in plots if plot is not None]


def _left_out(steps: Sequence[MeasuredStep], names: Sequence[str]) -> str:
    rest = ", ".join(step.name for step in steps if step.unlike & set(names))
    return f" Left out, because measured differently: {rest}." if rest else ""


def _accuracies(steps: Sequence[MeasuredStep], names: Sequence[str]) -> Plot | None:
    """All accuracies after each step."""
    chosen = [step for step in steps if any(step.has(name) for name in names)]
    if len(chosen) < 2:
        return None
    series = {
        name.partition("/")[2]: [
            (step.metrics[name], step.metrics.get(f"{name}/stderr", 0.0))
            if step.has(name)
            else None
            for step in chosen
        ]
        for name in names
    }
    title = "Accuracy" + (f" on {next(iter(series))}" if len(series) == 1 else "")
    caption = "Value and one standard error after each step." + _left_out(steps, names)
    return Plot(title, caption, dots([step.name for step in chosen], series, title))


def _waterfall(steps: Sequence[MeasuredStep], name: str, against: str) -> Plot | None:
    """One metric after each step, as bars."""
    chosen = [step for step in steps if step.has(name)]
    if len(chosen) < 2:
        return None
    metric = BY_PATTERN[name]
    title = CHARTS[name]
    values = [step.metrics[name] / metric.divisor for step in chosen]
    before: list[float] = []
    texts: list[str] = []
    for step, value in zip(chosen, values, strict=True):
        text = f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {metric.unit}"
        parent = next((other for other in chosen if other.name == step.source), step)
        if not metric.has_factor(step.context, parent.context):
            parent = step
        old = parent.metrics[name] / metric.divisor
        texts.append(text if parent is step or not old else f"{text}  {value / old:.2f}×")
        before.append(old)
    less_is_better = metric.better == "lower"
    better, worse = ("smaller", "larger") if less_is_better else ("faster", "slower")
    caption = ""
    if any(step.source for step in steps):
        caption = f"Each bar, and its factor, against {against}: green is {better}, red is {worse}."
    if caption and metric.conditions.factor:
        caption += " Only steps in the same runtime are compared."
    caption += _left_out(steps, [name])
    names = [step.name for step in chosen]
    svg = bars(names, values, before, texts, title, less_is_better=less_is_better)
    return Plot(title, caption, svg)


def _trade_off(steps: Sequence[MeasuredStep], accuracy: str, against: str) -> Plot | None:
    """An accuracy against what it costs; the steps on the Pareto front are marked."""
    chosen = [step for step in steps if step.has(accuracy) and step.has(against)]
    if len(chosen) < 2:
        return None
    cost = BY_PATTERN[against]
    sign = -1 if cost.better == "lower" else 1
    optimal = pareto_optimal(
        [(step.metrics[accuracy], step.metrics[against] * sign) for step in chosen]
    )
    caption = (
        f"Up and to the {'left' if sign < 0 else 'right'} is better."
        " Full dots: no other step beats them in both (the Pareto front)."
        + _left_out(steps, [accuracy, against])
    )
    if not all(cost.has_factor(step.context, chosen[0].context) for step in chosen):
        caption += " The runtimes differ, so that speeds of two steps make no factor."
    names = [step.name for step in chosen]
    are_numbers = all(name.isdigit() for name in names)  # the trials of a sweep
    if len(names) > MAX_NAMES and not are_numbers:
        legend = (f"{number}\N{NO-BREAK SPACE}{name}" for number, name in enumerate(names, 1))
        caption += " " + ", ".join(legend)
        names = [str(number) for number in range(1, len(names) + 1)]
    points = [
        Point(
            label=name,
            x=step.metrics[against] / cost.divisor,
            y=step.metrics[accuracy],
            error=step.metrics.get(f"{accuracy}/stderr", 0.0),
            pareto_optimal=on_front,
        )
        for name, step, on_front in zip(names, chosen, optimal, strict=True)
    ]
    what = CHARTS[against].lower()
    title = f"Accuracy on {accuracy.partition('/')[2]} against {what}"
    svg = scatter(points, title, f"{what}, {cost.unit}", "accuracy")
    return Plot(title, caption, svg)


def _importance(step: MeasuredStep) -> Plot | None:
    """The importance of every attention head, with the pruned ones crossed out."""
    layers = [
        [_real(value) for value in layer] for layer in step.details.get("head_importance") or []
    ]
    known = [value for layer in layers for value in layer if math.isfinite(value)]
    if not known:
        return None
    pruned = [[int(head) for head in layer] for layer in step.details.get("pruned_heads") or []]
    removed = sum(map(len, pruned))
    title = f"Head importance: {step.name}"
    caption = f"From {min(known):.3g} (faint) to {max(known):.3g} (full). "
    caption += (
        f"Crosses: the {removed} of {sum(map(len, layers))} heads that were pruned."
        if removed
        else "No head was pruned."
    )
    return Plot(title, caption, heat_map(layers, pruned, title))


def _module_errors(step: MeasuredStep) -> Plot | None:
    """The logarithm of each module's quantization error: one row per layer."""
    errors: dict[tuple[int, str], float] = {}
    for name, value in (step.details.get("modules") or {}).items():
        error = _real(value.get("error")) if isinstance(value, Mapping) else math.nan
        layer, _, kind = re.sub(r"^.*?\.(\d+)\.", r"\1 ", name).partition(" ")
        if layer.isdigit() and error > 0:
            errors[int(layer), kind.rpartition(".")[2]] = math.log10(error)
    kinds = list(dict.fromkeys(kind for _, kind in errors))
    if len(errors) < 2:
        return None
    layers = range(max(layer for layer, _ in errors) + 1)
    title = f"Quantization error: {step.name}"
    values = [10**value for value in errors.values()]
    caption = (
        "Relative error of each module's output on a logarithmic scale,"
        f" from {min(values):.2g} (faint) to {max(values):.2g} (full)."
    )
    rows = [[errors.get((layer, kind), math.nan) for kind in kinds] for layer in layers]
    return Plot(title, caption, heat_map(rows, [], title, kinds))


def _losses(step: MeasuredStep) -> Iterator[Plot]:
    """The loss of each stage of a distillation."""
    loss: Mapping[str, Sequence[Any]] = step.details.get("loss") or {}
    for stage, values in loss.items():
        finite = [value for value in map(_real, values) if math.isfinite(value)]
        if len(finite) > 1:
            title = f"Distillation loss: {step.name}, {stage}"
            end = sum(finite[-10:]) / len(finite[-10:])
            caption = (
                f"From {finite[0]:.3g} to {end:.3g} (mean of the last ten)"
                f" in {len(finite):,} steps. "
            )
            held_out = held_out_of(step.details, stage)
            if held_out:
                best = min(held_out, key=lambda pair: pair[1])
                caption += (
                    f"Dots: held-out rows, lowest {best[1]:.3g} after {best[0]:,.0f} steps,"
                    f" at the end {held_out[-1][1]:.3g}."
                )
            else:
                caption += "No held-out loss: only `early_stop` measures it."
            warnings = ["It rose again at the end."] if rise_of(finite) else []
            if held_out_rise(step.details, stage):
                warnings.append("The held-out loss rose.")
            svg = curve(finite, title, held_out)
            yield Plot(title, caption, svg, training=True, warnings=warnings)


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
