"""Hooks of mkdocs: pages from outside of docs/, their links, and the anchors of headings.

The same links work on a git host, where a page lies in the repository, and on the site. mkdocs
loads this file by its path, so it imports nothing of edgewright.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = ["OUTSIDE", "heading_id", "linked", "on_config", "on_files", "on_page_markdown"]

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "demo/model/README.md",
    "examples/README.md",
    "perf/RESULTS.md",
)
"""Pages of the repository that are not in docs/, and are on the site under the same path."""
OPTIONAL = {
    "examples/README.md": ROOT / "examples" / "README.md",
    "tasks.md": ROOT / "docs" / "tasks.md",
}
"""Pages that the navigation names, and that need not be there."""
FRONT = {"README.md": "index.md"}
"""The page of the site that stands for a page of the repository."""
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^]]*)\]\((?P<path>[^)#\s:]*)(?P<anchor>#[^)\s]*)?\)")


def heading_id(text: str, separator: str) -> str:
    """The anchor of a heading, by the rule of git hosts.

    Args:
        text: the heading.
        separator: what stands for a space.
    """
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", separator)


def _without_missing(entries: list[Any]) -> list[Any]:
    """A part of the navigation without those optional pages that are not there."""
    kept: list[Any] = []
    for entry in entries:
        if isinstance(entry, dict):
            ((title, below),) = entry.items()
            inner = _without_missing(below) if isinstance(below, list) else below
            kept.append({title: inner})
        elif entry not in OPTIONAL or OPTIONAL[entry].is_file():
            kept.append(entry)
    return kept


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the rule of anchors, and leave out what is announced in the navigation and not there."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = heading_id
    config.nav = _without_missing(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/."""
    for path in OUTSIDE:
        if (ROOT / path).is_file():
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def linked(markdown: str, path: str, published: set[str]) -> str:
    """A page whose links between files of the repository are links between pages of the site.

    A link to a file that is not on the site, such as a source file, becomes its text.

    Args:
        markdown: the page.
        path: of the page in the repository, such as `docs/export.md`.
        published: the paths of all files of the site.
    """
    here = posixpath.dirname(path)
    from_site = posixpath.dirname(_on_site(path))

    def link(match: re.Match[str]) -> str:
        if not match["path"]:
            return match[0]
        target = _on_site(posixpath.normpath(posixpath.join(here, match["path"])))
        if target not in published and f"{target}/README.md" in published:
            target = f"{target}/README.md"
        if target not in published and (ROOT / here / match["path"]).exists():
            return match["text"]
        where = posixpath.relpath(target, from_site or ".")
        return f"{match['image']}[{match['text']}]({where}{match['anchor'] or ''})"

    return LINK.sub(link, markdown)


def _on_site(path: str) -> str:
    """Where a file of the repository is on the site."""
    return FRONT.get(path, path.removeprefix("docs/"))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    source = page.file.src_uri
    path = source if source in OUTSIDE else f"docs/{source}"
    return linked(markdown, path, {file.src_uri for file in files})
