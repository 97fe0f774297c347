"""One metric's declaration, and how it formats and compares values. `metrics.py` declares all."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from .number_format import compact_count, significant

__all__ = ["Conditions", "Metric", "TerminalColumn", "with_error"]

PLACEHOLDER = re.compile(r"<(?P<name>\w+)(?::(?P<values>[^>]+))?>")
"""`<task>` stands for any text, `<phase:load|decode>` for one of the listed texts."""


ROUNDING = 1e-4
"""How far rounding may take a value beyond what is possible."""


def _range(low: float, high: float) -> str:
    return f"at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"


@dataclass(frozen=True)
class Conditions:
    """Which entries of a context must be equal before two values of a metric may be compared.

    A key may contain the placeholders of the metric's name: `data_hash/<data>`.
    """

    recorded: tuple[str, ...] = ()
    """Both contexts must have these keys, with equal values."""
    equal: tuple[str, ...] = ()
    """Equal values; a key that both contexts lack counts as equal."""
    unless_older: tuple[str, ...] = ()
    """Equal values where both contexts have the key. The gate also asks for every key that the
    baseline has: only measurements of older versions lack it."""
    if_recorded: tuple[str, ...] = ()
    """Equal values where both contexts have the key."""
    factor: tuple[str, ...] = ()
    """Equal values before one is called so many times the other: a factor between two runtimes
    would be read as that of the step."""


@dataclass(frozen=True)
class TerminalColumn:
    """How a metric is shown in a table of the terminal: heading and format of the number."""

    heading: str
    spec: str
    divisor: float = 1.0
    """The value is divided by this before it is written."""


@dataclass(frozen=True)
class Metric:
    """The declaration of a metric, or of all metrics whose names follow one pattern."""

    pattern: str
    """The name in measurements and ledgers: `size_bytes`, or `accuracy/<task>`."""
    label: str
    """The name that people read."""
    better: Literal["higher", "lower", "unknown"] = "unknown"
    unit: str = ""
    """Unit of the number that is shown, after the division."""
    divisor: float = 1.0
    """The value is divided by this before it is shown: 1e6 turns bytes into MB."""
    style: Literal["significant", "share", "count", "whole"] = "significant"
    """`share`: three decimals. `count`: with a unit, as 2.41 M. `whole`: no decimals."""
    digits: int = 3
    """Significant digits of the style `significant`."""
    low: float = 0.0
    """The least value that can be measured."""
    high: float = math.inf
    """The largest value that can be measured; that of the style `share` is 1."""
    conditions: Conditions = field(default_factory=Conditions)
    has_samples: bool = False
    """Whether a measurement can keep the samples, so that the gate can compute an interval."""
    default_limit: Mapping[str, float] = field(default_factory=dict)
    """The gate's limit where a policy names no metric at all."""
    shows_error: bool = False
    """Whether narrow tables show the standard error beside the value."""
    terminal: TerminalColumn | None = None
    hub_type: str = ""
    """The metric type in the `model-index` of a model card."""

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts: list[str] = []
        end = 0
        for found in PLACEHOLDER.finditer(self.pattern):
            parts.append(re.escape(self.pattern[end : found.start()]))
            parts.append(f"(?P<{found['name']}>{found['values'] or '.+'})")
            end = found.end()
        return re.compile("".join([*parts, re.escape(self.pattern[end:])]))

    @property
    def shown_pattern(self) -> str:
        """The pattern without the lists of values, for messages."""
        return PLACEHOLDER.sub(r"<\g<name>>", self.pattern)

    def parts(self, name: str) -> dict[str, str] | None:
        """The values of the placeholders in a name; None if the name is not one of this metric."""
        found = self._regex.fullmatch(name)
        return found.groupdict() if found else None

    def why_impossible(self, value: float) -> str:
        """Why no measurement gives this value; empty if one may.

        NaN is possible, for a broken model, and no limit holds it.
        """
        high = 1.0 if self.style == "share" else self.high
        if abs(value) > sys.float_info.max:
            return "no measurement is infinite"
        if value < self.low - ROUNDING or value > high + ROUNDING:
            return f"{self.label} is {_range(self.low, high)}"
        if self.style == "whole" and value % 1 > 0:
            return f"{self.label} is a whole number"
        return ""

    def format(self, value: float | None, *, unit: bool = False) -> str:
        """A value as people read it in reports, with its unit on request; a dash for None."""
        if value is None or not math.isfinite(value):
            return significant(value)
        scaled = value if self.divisor == 1.0 else value / self.divisor
        if self.style == "share":
            text = f"{scaled:.3f}"
        elif self.style == "count":
            text = compact_count(scaled)
        elif self.style == "whole" and scaled == int(scaled):
            text = f"{scaled:,.0f}"
        else:
            text = significant(scaled, self.digits)
        return f"{text} {self.unit}" if unit and self.unit else text

    def _filled(self, keys: tuple[str, ...], name: str) -> list[str]:
        """Keys with the values that their placeholders have in a metric's name."""
        parts = self.parts(name) or {}
        return [PLACEHOLDER.sub(lambda found: parts[found["name"]], key) for key in keys]

    def unrecorded(
        self, name: str, candidate: Mapping[str, Any], baseline: Mapping[str, Any]
    ) -> str:
        """A key of `unless_older` that the baseline has and the candidate lacks; empty if none."""
        keys = self._filled(self.conditions.unless_older, name)
        return next((key for key in keys if key in baseline and key not in candidate), "")

    def has_factor(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether the quotient of values with these two contexts tells what a step changed."""
        return all(one.get(key) == other.get(key) for key in self.conditions.factor)

    def why_unlike(self, name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
        """Why values with these two contexts must not be compared; empty if they may be."""
        if not one or not other:
            return "a measurement without its context cannot be compared"
        rules = self.conditions
        recorded = self._filled(rules.recorded, name)
        optional = self._filled((*rules.unless_older, *rules.if_recorded), name)
        both = [key for key in optional if key in one and key in other]
        for key in [*recorded, *self._filled(rules.equal, name), *both]:
            if key in recorded and key not in one and key not in other:
                return f"{key} was not recorded on either side"
            if one.get(key) != other.get(key) or (
                key in recorded and (key in one) != (key in other)
            ):
                return f"{key} differs ({one.get(key)} against {other.get(key)})"
        return ""


def with_error(metric: Metric) -> tuple[Metric, ...]:
    """A metric with its standard error and its number of samples."""
    rules = metric.conditions
    return (
        Metric(f"{metric.pattern}/stderr", f"{metric.label}, stderr", "lower", conditions=rules),
        Metric(f"{metric.pattern}/n", f"{metric.label}, n", style="whole", low=1, conditions=rules),
        metric,
    )
