"""The badge: the schema of shields.io, and a picture with readable text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from edgewright.benchmarks.gate.badge import BADGE_MARK, badge_text
from edgewright.errors import UsageError

VERDICTS = ("pass", "fail", "inconclusive")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_json_for_shields(verdict: str) -> None:
    text = badge_text({"verdict": verdict}, Path("gate.json"))
    badge = json.loads(text)
    assert badge.pop("color") in ("brightgreen", "red", "yellow")
    assert badge == {"schemaVersion": 1, "label": "edgewright gate", "message": verdict}
    assert BADGE_MARK in text


def luminance(colour: str) -> float:
    """The relative luminance of `#rrggbb`, as WCAG 2.1 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("verdict", VERDICTS)
def test_a_picture(verdict: str) -> None:
    text = badge_text({"verdict": verdict}, Path("gate.svg"))
    root = Xml.fromstring(text)
    name = {"svg": "http://www.w3.org/2000/svg"}
    assert root.findtext("svg:title", "", name) == f"edgewright gate: {verdict}"
    words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words == ["edgewright gate", verdict]
    assert BADGE_MARK in text
    ground = root.findall(".//svg:g/svg:rect", name)[-1].get("fill", "")
    assert 1.05 / (luminance(ground) + 0.05) > 4.5, "white text on it must be readable"


def test_another_ending_is_refused() -> None:
    gate: dict[str, Any] = {"verdict": "pass"}
    with pytest.raises(UsageError, match=r"a badge is a \.svg or a \.json file"):
        badge_text(gate, Path("gate.png"))
