"""The gate's verdict as a badge: an SVG picture, or JSON for an endpoint badge of shields.io."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import UsageError

__all__ = ["BADGE_MARK", "badge_text"]

LABEL = "edgewright gate"
BADGE_MARK = f'"label": "{LABEL}"'
"""A text in every badge, also in a picture: by it, edgewright knows its own file."""
COLOURS = {
    "pass": ("brightgreen", "#2e7d32"),
    "fail": ("red", "#c62828"),
    "inconclusive": ("yellow", "#8a6100"),
}
"""By verdict: the name of a colour for shields.io, and a colour on which white text is read."""
LETTER = 6.6
"""Average width of a letter of 11 pixels."""
PADDING = 10.0


def badge_text(gate: Mapping[str, Any], file: Path) -> str:
    """The badge for a file: a picture for `.svg`, the answer of an endpoint for `.json`.

    Args:
        gate: what `check_gate` returned.
        file: where it will be written; its ending decides.

    Raises:
        UsageError: another ending.
    """
    verdict = gate["verdict"]
    named, colour = COLOURS[verdict]
    # https://shields.io/badges/endpoint-badge
    endpoint = json.dumps(
        {"schemaVersion": 1, "label": LABEL, "message": verdict, "color": named}, indent=2
    )
    if file.suffix == ".json":
        return endpoint + "\n"
    if file.suffix == ".svg":
        return _picture(verdict, colour, endpoint)
    raise UsageError(f"{file}: a badge is a .svg or a .json file", "give a name with that ending")


def _picture(verdict: str, colour: str, endpoint: str) -> str:
    left, right = (round(len(text) * LETTER + PADDING) for text in (LABEL, verdict))
    width = left + right
    return f"""<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img">
<title>{LABEL}: {verdict}</title>
<metadata>{endpoint}</metadata>
<clipPath id="c"><rect width="{width}" height="20" rx="3"/></clipPath>
<g clip-path="url(#c)"><rect width="{left}" height="20" fill="#444"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/></g>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{left / 2:g}" y="14">{LABEL}</text>
<text x="{left + right / 2:g}" y="14">{verdict}</text></g>
</svg>
"""
