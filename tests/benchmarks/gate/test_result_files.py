"""Verdicts of the whole gate, and the JUnit file that it writes for a CI server."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree as Xml

import pytest
from gate_samples import answered

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Limit, Policy
from edgewright.benchmarks.gate.result_files import explain, junit_xml


def measured(right: int, name: str, size: int) -> dict[str, Any]:
    """A measurement of 200 problems."""
    found = answered("1" * right + "0" * (200 - right), name)
    return {**found, "metrics": found["metrics"] | {"size_bytes": size}}


MAIN = measured(95, "main | <b>", 100)
CANDIDATE = measured(90, "candidate", 90)


def result(inconclusive: str = "warn") -> dict[str, Any]:
    """One passed, one failed, one open, and one that has no samples."""
    limits = {
        "accuracy/reasoning": {"min_ratio": 0.5, "max_drop": 0.02, "min": 0.6},
        "size_bytes": {"max_ratio": 0.95},
    }
    return check_gate(
        CANDIDATE,
        MAIN,
        Policy.model_validate({"limits": limits, "inconclusive": inconclusive}),
    )


def test_verdicts_of_the_whole() -> None:
    checks = result()["checks"]
    assert [(c["limit"], c["verdict"]) for c in checks] == [
        ("ratio >= 0.5", "pass"),
        ("drop <= 0.02", "inconclusive"),
        (">= 0.6", "fail"),
        ("ratio <= 0.95", "pass"),
    ]
    assert result()["verdict"] == "fail" and not result()["accepted"]
    open_check = checks[1]
    assert open_check["samples"] == 200 and open_check["samples_needed"] > 200
    low, high = open_check["interval"]
    assert low < 0.02 < high and low < open_check["observed"] < high
    assert f"about {open_check['samples_needed']:,} samples would decide" in explain(open_check)


@pytest.mark.parametrize(
    ("inconclusive", "accepted"), [("pass", True), ("warn", True), ("fail", False)]
)
def test_the_policy_sets_the_effect_of_an_inconclusive_check(
    inconclusive: Any, accepted: bool
) -> None:
    new = answered("1" * 90 + "0" * 10)
    old = answered("1" * 91 + "0" * 9, "baseline")
    found = check_gate(
        new,
        old,
        Policy(limits={"accuracy/reasoning": Limit(max_drop=0.0)}, inconclusive=inconclusive),
    )
    assert (found["verdict"], found["accepted"]) == ("inconclusive", accepted)


def test_confidence_moves_the_verdict() -> None:
    new = answered("1" * 86 + "0" * 14)
    old = answered("1" * 90 + "0" * 10, "baseline")
    limits = {"accuracy/reasoning": Limit(max_drop=0.0)}
    found = [
        check_gate(new, old, Policy(limits=limits, confidence=c))["verdict"] for c in (0.9, 0.999)
    ]
    assert found == ["fail", "inconclusive"]


ATTRIBUTES = {
    "testsuites": (set(), set()),
    "testsuite": (
        {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"},
        {"skipped"},
    ),
    "properties": (set(), set()),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, set()),
    "failure": ({"type"}, {"message"}),
    "skipped": (set(), {"message"}),
    "system-out": (set(), set()),
    "system-err": (set(), set()),
}
"""Required and optional attributes in the JUnit schema of Apache Ant, the strictest dialect."""
TYPES = {
    "id": r"\d+",
    "tests": r"\d+",
    "failures": r"\d+",
    "errors": r"\d+",
    "skipped": r"\d+",
    "time": r"\d+(\.\d+)?",
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
    "name": ".+",
    "hostname": ".+",
}
CHILDREN = {
    "testsuites": ["testsuite*"],
    "testsuite": ["properties", "testcase*", "system-out", "system-err"],
    "properties": ["property*"],
    "testcase": ["skipped?", "failure?"],
}
"""What each element holds, in order."""


def conforms(node: Xml.Element) -> None:
    required, allowed = ATTRIBUTES[node.tag]
    assert required <= set(node.keys()) <= required | allowed, node.tag
    assert all(re.fullmatch(TYPES.get(name, ".*"), value) for name, value in node.items()), (
        node.attrib
    )
    tags = [child.tag for child in node]
    for slot in CHILDREN.get(node.tag, []):
        name = slot.rstrip("*?")
        many = slot.endswith("*")
        optional = not slot[-1].isalpha()
        count = next((i for i, tag in enumerate(tags) if tag != name), len(tags))
        assert count >= (not optional) and (many or count <= 1), f"{node.tag}: {name}"
        tags = tags[count:]
    assert not tags, f"{node.tag}: {tags} out of place"
    for child in node:
        conforms(child)


@pytest.mark.parametrize(("inconclusive", "failures"), [("pass", 1), ("warn", 1), ("fail", 2)])
def test_junit_holds_to_the_schema(inconclusive: str, failures: int) -> None:
    found = result(inconclusive)
    found["checks"][0]["metric"] = "odd \x00 \ud800 <&>\" 'name'"
    root = Xml.fromstring(junit_xml(found).encode())
    conforms(root)
    suite = root[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "4",
        str(failures),
        str(2 - failures),
    )
    cases = suite.findall("testcase")
    assert len({case.get("name") for case in cases}) == 4, "a server identifies cases by name"
    assert cases[0].get("name") == "odd ? ? <&>\" 'name' ratio >= 0.5"
    assert len(cases[0]) == 0
    outcome = cases[1][0]
    assert outcome.tag == ("failure" if inconclusive == "fail" else "skipped")
    assert "samples would decide" in outcome.get("message", "")
