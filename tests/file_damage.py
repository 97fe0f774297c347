"""Damages a file in every way that a disk, a person or another program may."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

__all__ = ["DAMAGES", "flip", "flips"]


def flip(file: Path, bit: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def flips(file: Path, count: int, seed: int = 0) -> list[int]:
    """Positions of bits to flip, spread over a file."""
    return random.Random(seed).sample(range(8 * file.stat().st_size), count)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _directory(file: Path) -> None:
    file.unlink()
    (file / "inside").mkdir(parents=True)


def _text(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half": _truncate,
    "empty": _text(b""),
    "list": _text(b"[1, 2]\n"),
    "number": _text(b"7\n"),
    "null": _text(b"null\n"),
    "object": _text(b'{"another": "file"}\n'),
    "nested": _text(b"[" * 100_000),
    "long number": _text(b'{"metrics": ' + b"9" * 10_000 + b"}"),
    "not UTF-8": _text(b'{"name": "\xff\xfe"}\n'),
    "zeros": _text(bytes(4096)),
    "directory": _directory,
}
"""Every damage but a flipped bit, by name."""
