"""The gate's result as Markdown: what it shows, what it draws, and names that attack it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from gate_samples import answered
from test_result_files import CANDIDATE, MAIN, result

from edgewright.benchmarks.gate.gate import check_gate
from edgewright.benchmarks.gate.policy import Policy
from edgewright.benchmarks.gate.pull_request import MOST_BYTES, drawing, markdown_text
from edgewright.benchmarks.metrics import find

CHART = re.compile(
    r"```mermaid\n"
    r"xychart-beta horizontal\n"
    r'    title "[^"\n]+"\n'
    r'    x-axis \["[\w ./+-]+"(?:, "[\w ./+-]+")*\]\n'
    r'    y-axis "[^"\n]+" 0 --> \d+\n'
    r"    bar \[[\d.]+(?:, [\d.]+)*\]\n"
    r"    line \[100(?:, 100)*\]\n"
    r"```\n"
)


def judged(new: dict[str, Any], old: dict[str, Any], **limits: Any) -> str:
    gate = check_gate(new, old, Policy.model_validate({"limits": limits} if limits else {}))
    return markdown_text(gate, new, old)


def test_it_is_a_table_that_nothing_breaks() -> None:
    text = markdown_text(result(), CANDIDATE, MAIN)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {row.count("|") - row.count("\\|") for row in rows} == {10}
    assert "### edgewright gate: ❌ **fail**" in text
    assert "main \\| &lt;b&gt;" in text
    assert "⚠️ inconclusive" in text and "needs about" in text
    assert "one-sided bound at 0.95" in text
    assert "each bound holds at 95 %, both together at 90 %" in text
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "❌ **fail**",
        "⚠️ inconclusive",
        "✅ pass",
        "✅ pass",
    ]


def test_what_has_no_limit_is_listed_with_its_change() -> None:
    old = answered("1" * 100)
    new = answered("1" * 100)
    for side, factor in ((old, 1), (new, 2)):
        side["metrics"] |= {
            "size_bytes": 10e6 * factor,
            "parameters": 5e6,
            "decode_tok_s/p50": 20.0 * factor,
            "nobody/declared": factor,
        }
    text = judged(new, old)
    assert "| size\\_bytes | 10.0 MB | 20.0 MB | +100 % (worse) |" in text
    assert "| parameters | 5.00 M | 5.00 M | equal |" in text
    assert "nobody" not in text
    (chart,) = CHART.findall(text)
    assert '"1 size_bytes"' in chart and "bar [200.00]" in chart and "0 --> 200" in chart


def test_a_metric_that_may_not_be_compared_is_left_out() -> None:
    old = answered("1" * 100)
    new = answered("1" * 100)
    for side, machine, speed in ((old, "one", 20.0), (new, "other", 40.0)):
        side["metrics"] |= {"decode_tok_s/p50": speed}
        side["context"] = {**side["context"], "device": machine, "threads": 2}
    assert "decode" not in judged(new, old)


def test_nothing_changed_and_nothing_else_was_measured() -> None:
    same = answered("1" * 100)
    text = judged(same, same)
    assert "<details>" not in text and "mermaid" not in text


def drawn(sign: str, limit: float, observed: float, *interval: float | None) -> str:
    return drawing(
        {"limit": f"drop {sign} {limit:g}", "observed": observed, "interval": interval or None}
    )


@pytest.mark.parametrize(
    ("picture", "parts"),
    [
        (("<=", 0.02, 0.01, 0.0, 0.015), "··├─────●──┤··┃░░"),
        (("<=", 0.02, 0.025, 0.01, 0.045), "··├──┃─●──────┤░░"),
        ((">=", 0.6, 0.45, 0.395, 0.505), "░░├──●──┤░░░░░┃··"),
        ((">=", 0.95, 0.9, None, 1.0), "◂─●─────┃─────┤··"),
        (("<=", 1.0, 1.5, 1.2, None), "··┃░░░░├──────●─▸"),
        (("<=", 1.0, 0.5), "··●···········┃░░"),
        (("<=", 0.0, 0.0, 0.0, 0.0), "··●░░░░░░░░░░░░░░"),
    ],
)
def test_the_drawing_shows_where_the_limit_is(picture: Any, parts: str) -> None:
    assert len(drawn(*picture)) == 17
    assert drawn(*picture) == parts


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_nothing_is_drawn_of_what_is_not_finite(value: float | None) -> None:
    assert drawn("<=", 1.0, value) == ""  # pyright: ignore[reportArgumentType]


HOSTILE = (
    "x\n```\n### owned",
    '"]; click A href "javascript:alert(1)"',
    "</details><script>alert(1)</script>",
    "![a](https://example.org/a.png) <img src=x>",
    "@everyone #1 https://example.org www.example.org",
    "a | b | c",
    "-->\n::add-mask::x\n##[error]x",
    "{{ github.token }} ${{ github.token }} $(id) `id`",
    "‮\x1b[31m\u200b",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    old = answered("1" * 50 + "0" * 50, name)
    new = answered("1" * 40 + "0" * 60, name)
    task = f"lm_eval/{name}/acc"
    for side, value in ((old, 0.5), (new, 0.4)):
        side["metrics"] |= {task: value, f"accuracy/{name}": value}
        side["context"] = {**side["context"], f"problems/{name}": 100, f"data_hash/{name}": "a"}
    limits = {f"accuracy/{name}": {"min": 0.3}} if find(f"accuracy/{name}") else {}
    text = judged(new, old, **limits)
    charts = CHART.findall(text)
    assert len(charts) == text.count("```mermaid") == 1
    rest = re.sub(r"&#\d+;", "", text.replace(charts[0], "").removeprefix("### "))
    assert re.findall(r"<[^>]*>", rest) == ["<details>", "<summary>", "</summary>", "</details>"]
    assert not re.search(r"(?<!\\)[\[\]@#]", rest)
    assert "://" not in rest and "www." not in rest and "```" not in rest
    rows = [line for line in rest.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) in (5, 10) for row in rows)
    assert not any(line.startswith(("::", "##[")) for line in text.splitlines())
    assert all(character >= " " or character == "\n" for character in text)


def test_a_long_result_fits_into_a_comment_with_its_failures_first() -> None:
    old = answered("1" * 100)
    new = answered("1" * 100)
    limits: dict[str, Any] = {}
    for number in range(900):
        name = f"accuracy/{'a_long_name_' * 10}{number}"
        for side in (old, new):
            side["metrics"][name] = 0.5
        limits[name] = {"min": 0.6 if number == 899 else 0.4}
    text = judged(new, old, **limits)
    assert MOST_BYTES - 1000 < len(text.encode()) <= MOST_BYTES
    first = [line for line in text.splitlines() if line.startswith("|")][2]
    assert "fail" in first and "899" in first
    assert "more lines did not fit" in text and text.endswith("is a warning.\n")
