"""The gate's result in words, and as JUnit XML for a CI server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as Xml

from ..plain_text import PROSE, plain

__all__ = [
    "NOT_COMPARED",
    "explain",
    "interval_rule",
    "interval_text",
    "junit_xml",
]

NOT_COMPARED = "the baseline has it and the candidate does not; no limit asks for it"
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"


def interval_text(check: Mapping[str, Any]) -> str:
    """`0.93 to 0.97`, or a dash for a check without samples."""
    ends = check.get("interval")
    if not ends:
        return "-"
    low, high = ends
    return f"up to {_number(high)}" if low is None else f"{_number(low)} to {_number(high)}"


def interval_rule(confidence: float) -> str:
    """How sure the bounds of an interval are, at the confidence of a policy."""
    both = 2 * confidence - 1
    return f"each bound holds at {100 * confidence:.4g} %, both together at {100 * both:.4g} %"


def explain(check: Mapping[str, Any]) -> str:
    """One sentence: observed value, interval, limit, and how many samples would decide."""
    text = "no ratio"
    if check["observed"] is not None:
        text = f"observed {check['observed']:.4g}"
    if check.get("interval"):
        text += f", {interval_text(check)} on {check['samples']:,} samples"
    text += f", limit {check['limit']}"
    if check.get("samples_needed"):
        text += f"; about {check['samples_needed']:,} samples would decide"
    return f"{text}; {check['note']}" if check.get("note") else text


def junit_xml(gate: Mapping[str, Any]) -> str:
    """JUnit XML with one test case per check, valid for Jenkins, GitLab and Ant's schema.

    An inconclusive check is a failure if the policy says so; else it is a skipped test, which is
    neither passed nor failed.
    """
    cases = [_case(check, strict=gate["inconclusive"] == "fail") for check in gate["checks"]]
    failures = sum(case.find("failure") is not None for case in cases)
    skipped = sum(case.find("skipped") is not None for case in cases)
    suites = Xml.Element("testsuites")
    suite = Xml.SubElement(
        suites,
        "testsuite",
        id="0",
        package="edgewright",
        name="edgewright gate",
        hostname="localhost",
        time="0",
        timestamp=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        tests=str(len(cases)),
        failures=str(failures),
        errors="0",
        skipped=str(skipped),
    )
    properties = Xml.SubElement(suite, "properties")
    for name in ("verdict", "candidate", "baseline", "confidence", "resamples"):
        Xml.SubElement(properties, "property", name=name, value=_clean(gate[name]))
    suite.extend(cases)
    Xml.SubElement(suite, "system-out").text = "\n".join(
        _clean(f"{c['verdict']}: {c['metric']}: {explain(c)}") for c in gate["checks"]
    )
    Xml.SubElement(suite, "system-err")
    Xml.indent(suites)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suites, encoding="unicode") + "\n"
    )


def _case(check: Mapping[str, Any], *, strict: bool) -> Xml.Element:
    case = Xml.Element(
        "testcase",
        classname="edgewright.gate",
        name=_clean(f"{check['metric']} {check['limit']}"),
        time="0",
    )
    if check["verdict"] != "pass":
        failed = check["verdict"] == "fail" or strict
        reason = Xml.SubElement(
            case,
            "failure" if failed else "skipped",
            message=_clean(f"{check['verdict']}: {explain(check)}"),
        )
        if failed:
            reason.set("type", check["verdict"])
    return case


def _clean(value: object) -> str:
    return plain(NOT_XML.sub("?", str(value)), PROSE)
