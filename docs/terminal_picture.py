"""Draws what a program printed in a terminal as an SVG whose lines appear as they did.

The program runs in a terminal of its own. What is erased again, such as a progress bar, is not in
the picture. The SVG needs no script and no font from elsewhere.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

__all__ = ["Line", "final_lines", "picture", "recorded"]

COLUMNS = 116
MOST_LINES = 46
CHARACTER = 7.8
"""Width of a character in pixels."""
LEADING = 17
MARGIN = 16
BAR = 30
SECONDS = 8.0
"""How long the picture takes to appear."""
STYLE = """
  text { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #d9dce3; }
  .frame { fill: #1e2128; }
  .line { animation: appear 0.01s linear backwards; }
  @keyframes appear { from { opacity: 0; } to { opacity: 1; } }
  @media (prefers-reduced-motion: reduce) { .line { animation: none; } }
"""
CONTROL = re.compile(
    r"\x1b\[(?P<number>\d*)(?P<what>[AKGhl])|\x1b\[\?\d+[hl]|\x1b\]8;[^\x1b]*\x1b\\"
)


@dataclass
class Line:
    """A line of the terminal: its text with escape sequences for colours, and when it came."""

    text: str
    seconds: float


def recorded(command: Sequence[str], columns: int = COLUMNS) -> list[tuple[float, str]]:
    """Run a command in a terminal of its own, and record what it prints.

    Returns:
        Pieces of the output, each with the seconds since the beginning.

    Raises:
        RuntimeError: the command failed.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    begun = time.monotonic()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    pieces = []
    while piece := _read(ours):
        pieces.append((time.monotonic() - begun, piece.decode(errors="replace")))
    os.close(ours)
    if process.wait():
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
    return pieces


def _read(terminal: int) -> bytes:
    """The next piece of output; empty at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def final_lines(pieces: Sequence[tuple[float, str]]) -> list[Line]:
    """What is on the terminal at the end, as rich writes it: whole lines, erased from below."""
    lines = [Line("", 0.0)]
    row = 0
    for seconds, piece in pieces:
        for part in re.split(r"(\n|\r|\x1b\[\d*[AK])", piece):
            if part == "\n":
                row += 1
                if row == len(lines):
                    lines.append(Line("", seconds))
            elif part.endswith("A") and part.startswith("\x1b["):
                row = max(0, row - int(part[2:-1] or 1))
            elif part.endswith("K") and part.startswith("\x1b["):
                lines[row].text = ""
            elif part != "\r":
                text = CONTROL.sub("", part)
                lines[row].text += text
                lines[row].seconds = seconds if text.strip() else lines[row].seconds
    while lines and not lines[-1].text.strip():
        lines.pop()
    return lines


def picture(command: str, lines: Sequence[Line]) -> str:
    """The SVG.

    Args:
        command: what was typed, for the first line.
        lines: of the terminal; the first ones are left out where there are too many.
    """
    shown = [Line(f"\x1b[1m$ {command}\x1b[0m", 0.0), *lines[-MOST_LINES:]]
    if len(lines) > MOST_LINES:
        shown.insert(1, Line("\x1b[2m  [...]\x1b[0m", 0.0))
    width = COLUMNS * CHARACTER + 2 * MARGIN
    height = BAR + len(shown) * LEADING + MARGIN
    return "\n".join([*_frame(width, height, command), *_text(shown), "</svg>", ""])


def _frame(width: float, height: float, command: str) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="A terminal after {escape(command)}">'
    )
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="frame" width="{width:.0f}" height="{height:.0f}" rx="8"/>'
    for number, colour in enumerate(("#ff5f57", "#febc2e", "#28c840")):
        yield f'<circle cx="{MARGIN + 4 + 18 * number}" cy="15" r="5" fill="{colour}"/>'


def _text(shown: Sequence[Line]) -> Iterator[str]:
    """One element for each line, which appears at its time."""
    console = Console(width=COLUMNS, color_system="truecolor", legacy_windows=False)
    last = max(line.seconds for line in shown) or 1.0
    for number, line in enumerate(shown):
        top = BAR + 8 + number * LEADING
        spans = []
        column = 0
        for segment in console.render(Text.from_ansi(line.text), console.options):
            text = segment.text.rstrip("\n")
            if text.strip():
                left = MARGIN + column * CHARACTER
                spans.append(
                    f'<tspan x="{left:.1f}" textLength="{len(text) * CHARACTER:.1f}"'
                    f"{_colour(segment.style)}>{escape(text)}</tspan>"
                )
            column += len(text)
        delay = SECONDS * line.seconds / last
        yield (
            f'<text class="line" xml:space="preserve" y="{top}" '
            f'style="animation-delay:{delay:.2f}s">{"".join(spans)}</text>'
        )


def _colour(style: Style | None) -> str:
    """The attributes of a style."""
    found = ""
    if style and style.color and not style.color.is_default:
        found += f' fill="{style.color.get_truecolor(MONOKAI).hex}"'
    if style and style.bold:
        found += ' font-weight="bold"'
    if style and style.dim:
        found += ' fill-opacity="0.6"'
    return found
