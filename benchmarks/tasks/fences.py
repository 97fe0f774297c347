"""Find the fenced code blocks of a Markdown text, by CommonMark's rules, and as models bend them.

A block is opened by three or more backticks or tildes, behind any indentation or list marker, and
what follows them names its language. It is closed by a line of at least as many, or ends with the
text. Models also close a block at the end of its last line, and open one inside another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Block", "fenced_blocks"]

MARKER = r"(?:(?:[-*+>]|\d{1,9}[.)])[ \t]+)*"
FENCE = re.compile(rf"(?P<before>[ \t]*{MARKER})(?P<fence>`{{3,}}(?=[^`]*$)|~{{3,}})(?P<info>.*)")
"""A line that opens a block, or closes one if no info follows. Backticks may not follow backticks:
such a line is text with inline code."""
SHIFT = 3
"""How many columns deeper than its opening a block may be closed. Deeper fences are of its text,
such as of a docstring."""
PYTHON = re.compile(r"\W*py(?:thon)?[\d.]*\b", re.IGNORECASE)


@dataclass
class Block:
    """A fenced block.

    Attributes:
        info: what follows the opening fence.
        fence: the opening fence.
        column: where the fence begins.
        lines: the lines inside, as they are written.
    """

    info: str
    fence: str
    column: int
    lines: list[str]

    @property
    def is_python(self) -> bool:
        """Whether it says that it is Python."""
        return bool(PYTHON.match(self.info))

    @property
    def code(self) -> str:
        """The lines, moved to the left by the indentation of the fence.

        A block whose first line is less indented than its fence is moved by that only.
        """
        first = next((line for line in self.lines if line.strip()), "")
        shift = min(self.column, _indentation(first))
        return "".join(f"{line[min(shift, _indentation(line)) :]}\n" for line in self.lines)


def fenced_blocks(text: str) -> list[Block]:
    """The blocks of a text, in their order."""
    blocks: list[Block] = []
    inside: Block | None = None
    for line in re.split(r"\r?\n", text):
        found = FENCE.fullmatch(line)
        if found and (inside is None or _ends(inside, found)):
            info = found["info"].strip()
            if inside and not info:
                inside = None
                continue
            inside = Block(info, found["fence"], len(found["before"]), [])
            blocks.append(inside)
        elif inside:
            last = _last_line(inside, line)
            inside.lines.append(line if last is None else last)
            inside = inside if last is None else None
    return blocks


def _ends(block: Block, found: re.Match[str]) -> bool:
    """Whether a fence ends this block: it closes the block, or opens the next one."""
    return found["fence"].startswith(block.fence) and len(found["before"]) <= block.column + SHIFT


def _last_line(block: Block, line: str) -> str | None:
    """What stands before a fence that closes the block at the end of its last line, if it does."""
    code = line.rstrip().removesuffix(block.fence)
    return code if code.strip() and code != line.rstrip() and block.fence[0] not in code else None


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())
