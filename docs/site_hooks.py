"""Hooks of mkdocs: pages from outside of docs/, notebooks, links, and the anchors of headings.

The same links work on a git host, where a page lies in the repository, and on the site. mkdocs
loads this file by its path, so it imports nothing of edgewright.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

__all__ = [
    "OUTSIDE",
    "heading_id",
    "linked",
    "notebook_page",
    "on_config",
    "on_files",
    "on_page_markdown",
]

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "demo/model/README.md",
    "perf/RESULTS.md",
)
"""Pages of the repository that are not in docs/, and are on the site under the same path."""
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


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the rule of anchors."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = heading_id
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and the notebooks as pages."""
    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for notebook in sorted((ROOT / "examples").glob("*.ipynb")):
        page = _on_site(notebook.relative_to(ROOT).as_posix())
        files.append(File.generated(config, page, content=notebook_page(notebook)))
    return files


def notebook_page(notebook: Path) -> str:
    """The text and the code of a notebook as a page."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    parts.insert(1, f"This is the notebook `{notebook.relative_to(ROOT)}`, without its outputs.")
    return "\n\n".join([*parts, ""])


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
    page = path.removesuffix(".ipynb") + ".md" if path.endswith(".ipynb") else path
    return FRONT.get(page, page.removeprefix("docs/"))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page."""
    source = page.file.src_uri
    outside = source in OUTSIDE or source.startswith("examples/")
    path = source if outside else f"docs/{source}"
    return linked(markdown, path, {file.src_uri for file in files})
