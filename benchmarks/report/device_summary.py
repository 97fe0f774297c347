"""What the device of a run will refuse, and how well the candidate fits it: first in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..number_format import significant
from .ledger_view import Record, number

__all__ = ["DeviceSummary", "Objection", "device_summary"]

HEADINGS = {"fail": "refused", "inconclusive": "fits, with limits", "pass": "fits"}


@dataclass(frozen=True)
class Objection:
    """Something that a device cannot do, or not well, with the results of some steps.

    Attributes:
        refused: whether the device cannot run them at all.
        own: whether the candidate is one of them.
        steps: their names.
        text: why, and the nearest thing that works.
    """

    refused: bool
    own: bool
    steps: str
    text: str


@dataclass(frozen=True)
class DeviceSummary:
    """What a plan says about the candidate on its target.

    Attributes:
        target: name of the device.
        verdict: pass, inconclusive or fail, as of a gate; empty: not known.
        heading: the verdict in words.
        prediction: memory and speed of the candidate; empty: not known.
        objections: of the candidate first, and of each the refusals before the limits.
    """

    target: str
    verdict: str
    heading: str
    prediction: str
    objections: Sequence[Objection]


def device_summary(plan: Record, candidate: str) -> DeviceSummary | None:
    """The summary of a plan for a device; None if there is no device or no row.

    Args:
        plan: of a ledger.
        candidate: name of the step that the report is about.
    """
    rows = [row for row in plan.get("rows") or [] if isinstance(row, Mapping)]
    if not plan.get("target") or not rows:
        return None
    own = next((row for row in rows if row.get("step") == candidate), {})
    verdict = _verdict(own)
    return DeviceSummary(
        str(plan["target"]),
        verdict,
        f"{candidate} {HEADINGS[verdict]}" if verdict else "no prediction",
        _prediction(own),
        sorted(_objections(rows, candidate), key=lambda one: (not one.own, not one.refused)),
    )


def _verdict(row: Record) -> str:
    if row.get("refused") or row.get("fits") is False:
        return "fail"
    if row.get("violations"):
        return "inconclusive"
    return "pass" if row.get("fits") else ""


def _prediction(row: Record) -> str:
    """Memory and speed in one line."""
    total, usable = (number(row.get(f"{key}_bytes")) for key in ("total", "usable"))
    parts: list[str] = []
    if total is not None and usable is not None:
        parts.append(f"{total / 1e9:.2f} of {usable / 1e9:.2f} GB")
    for key, band_key, unit in (("decode_tok_s", "band", "tok/s"), ("ttft_ms", "ttft_band", "ms")):
        value, band = (number(row.get(name)) for name in (key, band_key))
        if value is not None and band is not None:
            bounds = f"{significant(value / (1 + band))} to {significant(value * (1 + band))}"
            what = "" if unit == "tok/s" else " to the first token"
            parts.append(f"{bounds} {unit}{what}")
    return ", ".join(parts)


def _objections(rows: Sequence[Record], candidate: str) -> Iterator[Objection]:
    """The objections, each once with all steps that it is about."""
    steps: dict[tuple[bool, str], list[str]] = {}
    for row in rows:
        for refused, key in ((True, "refused"), (False, "violations")):
            for text in row.get(key) or ():
                steps.setdefault((refused, str(text)), []).append(str(row.get("step", "")))
    for (refused, text), names in steps.items():
        own = candidate in names
        names.sort(key=lambda name: name != candidate)
        yield Objection(refused, own, ", ".join(dict.fromkeys(names)), text)
