"""Which figures the numbers of a run allow: waterfalls, trade-offs with their Pareto front, heat maps, loss curves."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from .pareto import on_front
from .plots import Point, bars, curve, dots, heat_map, scatter

__all__ = ["Measured", "Plot", "figures"]

MAX_NAMES = 6
"""Beside the dots of a scatter; more are numbered."""


@dataclass(frozen=True)
class Measured:
    """One step: its finite metrics, those that cannot be set beside the baseline's, and the details of its ledger entry."""

    name: str
    metrics: Mapping[str, float]
    unlike: frozenset[str]
    details: Mapping[str, Any]

    def fair(self, name: str) -> bool:
        """Whether the step has this metric, and it can be set beside the baseline's."""
        return name in self.metrics and name not in self.unlike


@dataclass(frozen=True)
class Plot:
    """A drawn figure, its heading, and what is to be known about it."""

    title: str
    caption: str
    svg: Markup


def figures(steps: Sequence[Measured], accuracies: Sequence[str]) -> list[Plot]:
    """Every figure that the numbers of a run allow, in the order of the report."""
    plots = [
        _accuracies(steps, accuracies),
        _waterfall(steps, "size_bytes", "Size", "MB", 1e-6, less_is_better=True),
        _waterfall(steps, "ttft_ms/p50", "Time to first token", "ms", 1.0, less_is_better=True),
        _waterfall(steps, "decode_tok_s/p50", "Decode speed", "tok/s", 1.0, less_is_better=False),
        *(trade_off(steps, name, *other) for name in accuracies for other in TRADES),
    ]
    for step in steps:
        plots += [_importance(step), _module_errors(step), *_losses(step)]
    return [plot for plot in plots if plot is not None]


def _left_out(steps: Sequence[Measured], names: Sequence[str]) -> str:
    rest = ", ".join(step.name for step in steps if step.unlike & set(names))
    return f" Left out, since measured otherwise: {rest}." if rest else ""


def _accuracies(steps: Sequence[Measured], names: Sequence[str]) -> Plot | None:
    chosen = [step for step in steps if any(step.fair(name) for name in names)]
    if len(chosen) < 2:
        return None
    series = {
        name.partition("/")[2]: [
            (step.metrics[name], step.metrics.get(f"{name}/stderr", 0.0))
            if step.fair(name)
            else None
            for step in chosen
        ]
        for name in names
    }
    title = "Accuracy" + (f" on {next(iter(series))}" if len(series) == 1 else "")
    caption = "Value and one standard error after each step." + _left_out(steps, names)
    return Plot(title, caption, Markup(dots([step.name for step in chosen], series, title)))


def _waterfall(
    steps: Sequence[Measured],
    name: str,
    title: str,
    unit: str,
    scale: float,
    *,
    less_is_better: bool,
) -> Plot | None:
    chosen = [step for step in steps if step.fair(name)]
    if len(chosen) < 2:
        return None
    values = [step.metrics[name] * scale for step in chosen]
    texts = [
        f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}" for value in values
    ]
    if values[0]:
        texts[1:] = [
            f"{text}  {value / values[0]:.2f}×"
            for text, value in zip(texts[1:], values[1:], strict=True)
        ]
    better, worse = ("smaller", "larger") if less_is_better else ("faster", "slower")
    caption = (
        f"Each bar against the one above: green {better}, red {worse}. Factors are of the first."
        + _left_out(steps, [name])
    )
    svg = bars([step.name for step in chosen], values, texts, title, less_is_better=less_is_better)
    return Plot(title, caption, Markup(svg))


TRADES = (
    ("size_bytes", "size, MB", 1e-6, True),
    ("decode_tok_s/p50", "decode speed, tok/s", 1.0, False),
)
"""What an accuracy is set against: the metric, its axis, its unit, and whether less of it is better."""


def trade_off(
    steps: Sequence[Measured], name: str, against: str, axis: str, scale: float, less: bool
) -> Plot | None:
    """Accuracy against what it costs, with the steps marked that no other step beats in both."""
    chosen = [step for step in steps if step.fair(name) and step.fair(against)]
    if len(chosen) < 2:
        return None
    names = [step.name for step in chosen]
    best = on_front(
        [(step.metrics[name], step.metrics[against] * (-1 if less else 1)) for step in chosen]
    )
    caption = f"Up and to the {'left' if less else 'right'} is better. Full dots: nothing beats them in both (the Pareto front)."
    caption += _left_out(steps, [name, against])
    if len(names) > MAX_NAMES and not all(
        label.isdigit() for label in names
    ):  # trials of a sweep are numbers already
        caption += " " + ", ".join(
            f"{number}\N{NO-BREAK SPACE}{label}" for number, label in enumerate(names, 1)
        )
        names = [str(number) for number in range(1, len(names) + 1)]
    points = [
        Point(
            label,
            step.metrics[against] * scale,
            step.metrics[name],
            step.metrics.get(f"{name}/stderr", 0.0),
            full,
        )
        for label, step, full in zip(names, chosen, best, strict=True)
    ]
    title = f"Accuracy on {name.partition('/')[2]} against {axis.partition(',')[0]}"
    return Plot(title, caption, Markup(scatter(points, title, axis, "accuracy")))


def _importance(step: Measured) -> Plot | None:
    layers = [
        [_real(value) for value in layer] for layer in step.details.get("head_importance") or []
    ]
    known = [value for layer in layers for value in layer if math.isfinite(value)]
    if not known:
        return None
    pruned = [[int(head) for head in layer] for layer in step.details.get("pruned_heads") or []]
    gone = sum(map(len, pruned))
    title = f"Head importance: {step.name}"
    caption = f"From {min(known):.3g} (faint) to {max(known):.3g} (full). "
    caption += (
        f"Crosses: the {gone} of {sum(map(len, layers))} heads that were pruned."
        if gone
        else "No head was pruned."
    )
    return Plot(title, caption, Markup(heat_map(layers, pruned, title)))


def _module_errors(step: Measured) -> Plot | None:
    """Layers downwards, their modules across: the logarithm of the error, as it goes over decades."""
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
    caption = f"Of each module's output, relative; logarithmic, from {min(values):.2g} (faint) to {max(values):.2g} (full)."
    rows = [[errors.get((layer, kind), math.nan) for kind in kinds] for layer in layers]
    return Plot(title, caption, Markup(heat_map(rows, [], title, kinds)))


def _losses(step: Measured) -> Iterator[Plot]:
    loss: Mapping[str, Sequence[Any]] = step.details.get("loss") or {}
    for stage, values in loss.items():
        finite = [value for value in map(_real, values) if math.isfinite(value)]
        if len(finite) > 1:
            title = f"Distillation loss: {step.name}, {stage}"
            end = sum(finite[-10:]) / len(finite[-10:])
            caption = f"From {finite[0]:.3g} to {end:.3g} (mean of the last ten) in {len(finite):,} steps."
            yield Plot(title, caption, Markup(curve(finite, title)))


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
