"""The commands in the code blocks of the documentation, and which of them the tests run.

A block of commands is fenced as `bash`. A line `# not run by the tests: REASON` in it marks the
commands below it, up to an empty line or the end of the block. Every reader sees the mark.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewright.docs.import_graph import ROOT

MARK = "# not run by the tests: "
REASONS = (
    "takes minutes",
    "needs a board",
    "needs a real model",
    "needs a server",
    "needs a download",
    "needs several processes",
    "needs measurements of yours",
    "needs another environment",
    "runs until you stop it",
    "writes into the repository",
)
PROGRAMS = ("edgewright", "make", "pip", "python", "python3", "torchrun", "accelerate", "mkdir")
VERBS = ROOT / "docs" / "verbs.md"
"""The page whose commands make what the other pages use."""
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if page.name != "reference.md"),
]
"""All pages with commands for people. The reference is made from the examples of `--help`."""


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        line: as it is printed, its continuation lines joined.
        reason: why the tests do not run it; empty: they do.
    """

    line: str
    reason: str

    @property
    def words(self) -> list[str]:
        """The words, without the comment behind them."""
        return shlex.split(self.line.partition(" #")[0])

    @property
    def exit_codes(self) -> set[int]:
        """What may be returned: 0, or what the comment announces, as in `exit code 5 if worse`."""
        return {0, *map(int, re.findall(r"exit code (\d)", self.line.partition(" #")[2]))}


def blocks(page: Path) -> Iterator[str]:
    """The code blocks of a page that are fenced as `bash` or `console`."""
    found = re.finditer(r"^```(?:bash|console|sh)\n(.*?)^```", page.read_text(), re.M | re.S)
    yield from (match[1] for match in found)


def python_of(page: Path) -> Iterator[tuple[str, str]]:
    """The blocks of Python on a page, each with the reason why the tests do not run it, or none."""
    for match in re.finditer(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        first, _, rest = match[1].partition("\n")
        marked = first.startswith(MARK)
        yield (rest, first.removeprefix(MARK)) if marked else (match[1], "")


def commands_of(page: Path) -> Iterator[Command]:
    """The commands of a page, from top to bottom."""
    for block in blocks(page):
        reason = ""
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(MARK):
                reason = line.removeprefix(MARK)
            elif not line.strip():
                reason = ""
            elif not line.startswith("#"):
                yield Command(line, reason)


def unfenced(page: Path) -> Iterator[str]:
    """Commands in blocks that are only indented, or fenced as something else."""
    text = re.sub(r"^```(?:bash|console|sh)\n.*?^```", "", page.read_text(), flags=re.M | re.S)
    for line in text.splitlines():
        words = line.removeprefix("    ").split()
        if len(words) > 1 and words[0] in PROGRAMS and (line.startswith("    ")):
            yield line
        if re.match(r"    (import \w+|from [\w.]+ import )", line):
            yield line
