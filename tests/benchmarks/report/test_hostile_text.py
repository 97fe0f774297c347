"""Every field of a ledger, hostile: report, comparison and card show it as nothing but text."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_ledger import make_ledger

from edgewright.benchmarks.plain_text import escape_markdown, plain
from edgewright.benchmarks.report import report as report_module
from edgewright.benchmarks.report.compare import write_comparison
from edgewright.benchmarks.report.model_card import write_card
from edgewright.benchmarks.report.report import render_html, render_markdown
from edgewright.pipeline.registry import STEPS

MARK = "<!-- edgewright comparison -->"
"""The sign that a comparison is edgewright's own."""
HOSTILE = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    '" onload=\'alert(1)\' style="background:url(http://evil.example/a)" x=`',
    "[click](javascript:alert(1)) ![](http://evil.example/pixel.png) <http://evil.example>",
    "</code></pre></title></style><iframe src=//evil.example></iframe><!--",
    "- item\n# heading\n\n---\n| a | b |\n|---|---|\n```\n~~~\n&lt; ftp://a.example www.evil.ex",
    "1. one\n> quote\n[a]: http://evil.example 'x'\n***bold*** __b__ ~~s~~ $x$ {{ 7*7 }} {% raw %}",
    "\x1b]0;owned\x07\x1b[2J \x00 \u202egnp.exe \u2066a\u2069 \ud800 \u2028 \x85 \ufeff",
    "W" * 10_000,
    "<" * 10_000,
]
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
Path_ = tuple[Any, ...]


class Skeleton(HTMLParser):
    """The elements and attributes of a page, and the text of its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: set[tuple[str, str]] = set()
        self.values: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, ""))
        self.found |= {(tag, name) for name, _ in attrs}
        self.values += [(name, value or "") for name, value in attrs]

    def handle_comment(self, data: str) -> None:
        self.found.add(("comment", data))


def texts(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """The places of all texts in a ledger; that of a key ends in `None, key`."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, None, key)
            yield from texts(inner, (*at, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts(inner, (*at, number))
    elif isinstance(value, str):
        yield at


def with_text(ledger: Any, at: Path_, text: str) -> Any:
    """A copy of a ledger with another text in one place."""
    made = copy.deepcopy(ledger)
    inner = made
    is_key = len(at) > 1 and at[-2] is None
    for step in at[: -2 if is_key else -1]:
        inner = inner[step]
    if is_key:
        inner[text] = inner.pop(at[-1])
    else:
        inner[at[-1]] = text
    return made


def full_ledger() -> dict[str, Any]:
    """The ledger of the other tests, with experts and a prediction that was refused as well."""
    ledger = make_ledger()
    ledger["steps"][1]["details"]["experts"] = [
        {"importance": [1.0], "removed": [0], "before": {"entropy": 1.0}, "after": {"entropy": 0.9}}
    ]
    return ledger


PLACES = [at for at in texts(full_ledger()) if at != (None, "schema")]


def tokens(markdown: str) -> set[str]:
    """The kinds of tokens in Markdown, with those inside of lines."""
    parsed = MarkdownIt("commonmark").enable("table").parse(markdown)
    return {token.type for outer in parsed for token in (outer, *(outer.children or []))} - {
        "softbreak"
    }


def check_html(html: str, clean: Skeleton) -> None:
    page = Skeleton(html)
    assert page.found <= clean.found
    assert not UNSEEN.search(html)
    for name, value in page.values:
        assert name not in ("src", "srcset", "action", "onerror", "onload")
        assert name != "href" or value.startswith("#")
    assert len(html.encode(errors="replace")) < 1_000_000


def check_markdown(markdown: str, clean: set[str]) -> None:
    found = tokens(markdown.replace(MARK, ""))
    assert found - {"code_inline"} <= clean
    assert not found & {"html_inline", "html_block", "link_open", "image", "blockquote_open"}
    assert not UNSEEN.search(markdown)
    outside = re.sub(r"^(```+)\w*\n.*?^\1$", "", markdown, flags=re.S | re.M)
    assert "://" not in outside and "www.evil" not in outside
    assert len(markdown) < 1_000_000


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts are drawn in the test of all fields at once; they take long."""
    monkeypatch.setattr(report_module, "plots_of", lambda *_: [])


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("number", range(len(HOSTILE) + 1))
def test_each_field_alone_is_text(number: int) -> None:
    """Every place with all texts in one, and every ninth place with each of them."""
    text = (*HOSTILE, " ".join(HOSTILE))[number]
    ledger = full_ledger()
    html = Skeleton(render_html(ledger))
    markdown = tokens(render_markdown(ledger))
    for at in PLACES if number == len(HOSTILE) else PLACES[number :: len(HOSTILE)]:
        hostile = with_text(ledger, at, text)
        check_html(render_html(hostile), html)
        check_markdown(render_markdown(hostile), markdown)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_all_fields_together_are_text(text: str) -> None:
    ledger = full_ledger()
    clean = Skeleton(render_html(ledger))
    for number, at in enumerate(PLACES):
        steers = at[-1] in ("kind", "device", "backend") or None in at
        if not steers:
            ledger = with_text(ledger, at, f"{text}{number}")
    check_html(render_html(ledger), clean)
    check_markdown(render_markdown(ledger), tokens(render_markdown(full_ledger())))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_comparison_shows_names_as_text(text: str, tmp_path: Path) -> None:
    rows = full_ledger()["steps"][:2]
    against = [{"accuracy/reasoning": {"unlike": "a reason"}}]
    pages = {}
    for name in ("one.two", text):
        hostile = [{**row, "name": f"{name}:{row['name']}", "kind": name} for row in rows]
        told = [{"accuracy/reasoning": {"unlike": name}}] if name == text else against
        compared = {"rows": hostile, "against_first": told}
        files = (tmp_path / "page.html", tmp_path / "page.md")
        write_comparison(compared, *files, f"edgewright compare {name}")
        pages[name] = [file.read_text() for file in files]
    check_html(pages[text][0], Skeleton(pages["one.two"][0]))
    check_markdown(pages[text][1], tokens(pages["one.two"][1]))


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_card_shows_names_as_text(text: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    cards = []
    for name in ("one.two", text):
        front = "\n".join(f"{key}: {name!r}" for key in ("license", "language"))
        (source / "README.md").write_text(f"---\n{front}\n---\n", errors="replace")
        entry = full_ledger()["steps"][1] | {"name": name, "notes": [name], "config": {name: name}}
        entry["context"] = dict.fromkeys(("backend", "device", "dtype", "threads"), name)
        file = write_card(tmp_path, entry, STEPS["prune"], name, source, f"edgewright {name}")
        cards.append(file.read_text().split("\n---\n", 1)[1])
    check_markdown(cards[1], tokens(cards[0]))


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("Qwen2.5-0.5B-Instruct", "modèle 漢字 مرحبا 🙂", "a - b", "-0.25", "1.5 MB", "-"):
        assert plain(text) == text
        assert escape_markdown(text).replace("\\", "") == text
    for text in ("-0.25", "0.2000", "1.5 MB", "2) b", "1.", "–"):
        assert (escape_markdown(text) == text) == (text not in ("2) b", "1.")), text


def test_a_long_text_says_how_long_it_was() -> None:
    text = plain("a" * 9_000 + "end")
    assert len(text) <= 400 and "(9,003 characters)" in text and text.endswith("end")
