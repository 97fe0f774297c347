"""The gate's result for machines and reviewers: JUnit XML for a CI server, Markdown for a pull request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree as Xml

__all__ = ["explain", "interval_text", "junit_xml", "markdown_text"]

MARKS = {"pass": "✅ pass", "fail": "❌ **fail**", "inconclusive": "⚠️ inconclusive"}
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"


def interval_text(check: Mapping[str, Any]) -> str:
    """`0.93 to 0.97`, or a dash for a check without samples."""
    ends = check.get("interval")
    return (
        f"{_number(ends[0])} to {_number(ends[1])}"
        if ends and ends[0] is not None
        else f"up to {_number(ends[1])}"
        if ends
        else "-"
    )


def explain(check: Mapping[str, Any]) -> str:
    """One sentence: what was seen, between which bounds, what was asked, and what would decide an open question."""
    observed = (
        "no ratio to a baseline of zero"
        if check["observed"] is None
        else f"observed {check['observed']:.4g}"
    )
    between = (
        f", {interval_text(check)} on {check['samples']:,} samples" if check.get("interval") else ""
    )
    needed = (
        f"; about {check['samples_needed']:,} samples would decide"
        if check.get("samples_needed")
        else ""
    )
    note = f"; {check['note']}" if check.get("note") else ""
    return f"{observed}{between}, limit {check['limit']}{needed}{note}"


def junit_xml(gate: Mapping[str, Any]) -> str:
    """JUnit XML, a test case for each check, in the dialect that Jenkins, GitLab and Ant's schema agree on.

    An inconclusive check is a failure where the policy says so, and a skipped test otherwise: neither passed nor failed.
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
        told = Xml.SubElement(
            case,
            "failure" if failed else "skipped",
            message=_clean(f"{check['verdict']}: {explain(check)}"),
        )
        if failed:
            told.set("type", check["verdict"])
    return case


def _clean(value: object) -> str:
    return NOT_XML.sub("?", str(value))


def markdown_text(gate: Mapping[str, Any]) -> str:
    """A heading, a table with a row for each check, and the rule, for a pull request comment."""
    rows = [
        [
            MARKS[c["verdict"]],
            c["metric"],
            _value(c["baseline"]),
            _value(c["candidate"]),
            _value(c["observed"]),
            interval_text(c),
            c["limit"],
            _count(c),
        ]
        for c in gate["checks"]
    ]
    head = [
        "verdict",
        "metric",
        "baseline",
        "candidate",
        "observed",
        "interval",
        "limit",
        "samples",
    ]
    lines = [
        f"### edgewright gate: {MARKS[gate['verdict']]}",
        "",
        f"{_escape(gate['candidate'])} against {_escape(gate['baseline'])}",
        "",
    ]
    lines += [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join([row[0], *map(_escape, row[1:])]) + " |" for row in rows]
    notes = dict.fromkeys(f"{c['metric']}: {c['note']}" for c in gate["checks"] if c["note"])
    lines += [
        "",
        *(f"- {_escape(note)}" for note in notes),
        *([""] if notes else []),
        _rule(gate),
        "",
    ]
    return "\n".join(lines)


def _rule(gate: Mapping[str, Any]) -> str:
    effect = {"pass": "counts as passed", "warn": "is a warning", "fail": "counts as failed"}[
        gate["inconclusive"]
    ]
    return (
        f"Each end of an interval is a one-sided bound at {gate['confidence']:.4g} (paired bootstrap, {gate['resamples']:,} resamples). "
        f"Wholly beyond the limit fails, wholly within it passes; anything between is inconclusive and {effect}."
    )


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _count(check: Mapping[str, Any]) -> str:
    if not check["samples"]:
        return "-"
    return f"{check['samples']:,}" + (
        f", needs about {check['samples_needed']:,}" if check["samples_needed"] else ""
    )


def _escape(value: object) -> str:
    text = (
        " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
    return "".join("\\" + c if c in "\\|`*_[]#~@" else c for c in text)
