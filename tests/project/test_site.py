"""The site of docs/ builds strictly, holds every page, and loads nothing from another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.docs.import_graph import ROOT
from edgewright.docs.site_hooks import OUTSIDE, heading_id, linked

LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*?\ssrc=[\"']?([^\"'\s>]+)"
    r"|<link[^>]*rel=[\"']?(?:stylesheet|icon|preconnect)[^>]*?href=[\"']?([^\"'\s>]+)"
)
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_on_the_site(site: Path) -> None:
    for page in PAGES:
        name = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert (site / name.replace("README.html", "index.html")).is_file(), name
    for path in OUTSIDE:
        name = path.replace("README.md", "index.md").replace(".md", ".html")
        assert (site / name).is_file() == (ROOT / path).is_file(), name


def test_no_source_is_published(site: Path) -> None:
    assert not [path for path in site.rglob("*") if path.suffix in (".py", ".pyc", ".md")]


def test_pages_load_nothing_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    found = {
        address
        for page in pages
        for address in _loaded(page.read_text())
        if re.match(r"(?:https?:)?//", address)
    }
    assert len(pages) > 40
    assert not found
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?(?:https?:)?//[^)]*", styles)


def _loaded(html: str) -> Iterator[str]:
    for groups in LOADED.findall(html):
        yield next(group for group in groups if group)


def test_tables_and_lists_are_rendered(site: Path) -> None:
    """What a git host shows as a list or a table is one on the site too."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(pre|code|td|script)[^>]*>.*?</\1>", "", page.read_text(), flags=re.S)
        paragraphs = re.findall(r"<p>(.*?)</p>", text, re.S)
        raw = [one for one in paragraphs if re.search(r"^(- |1\. |\| )|^```", one, re.M)]
        assert not raw, f"{page.name}: {raw[0][:200]}"


def test_links_out_of_docs_become_links_of_the_site() -> None:
    published = {"export.md", "perf/RESULTS.md", "index.md", "contributing/README.md"}
    text = "[a](../perf/RESULTS.md#x) [b](../Makefile) [c](export.md) [d](../README.md)"
    assert linked(text, "docs/pruning.md", published) == (
        "[a](perf/RESULTS.md#x) b [c](export.md) [d](index.md)"
    )
    assert linked("[a](docs/export.md#y)", "CHANGELOG.md", published) == "[a](export.md#y)"
    assert linked("[a](docs/contributing)", "CONTRIBUTING.md", published) == (
        "[a](contributing/README.md)"
    )
    assert linked("[a](https://x.org/b.md) [b](#here)", "docs/a.md", published) == (
        "[a](https://x.org/b.md) [b](#here)"
    )


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("The gate", "the-gate"),
        ("`--logits last`", "--logits-last"),
        ("2:4 sparsity: when it pays", "24-sparsity-when-it-pays"),
        ("Killed, or gone wrong", "killed-or-gone-wrong"),
        ("early_stop", "early_stop"),
    ],
)
def test_anchors_are_those_of_git_hosts(heading: str, anchor: str) -> None:
    assert heading_id(heading.replace("`", ""), "-") == anchor
