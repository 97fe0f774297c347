"""How edgewright seals the files that it will read again, and how it reads them.

A sealed JSON object has a checksum of its other values under `check`; so has every line of a sealed
JSONL file. Large binary files are sealed by a digest that a sealed object records, or that stands
before the data. A flipped bit, a cut file and an edited figure are noticed this way. A checksum
is no signature: who computes it again can forge a file. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ..documents import read_json
from ..errors import UsageError
from .atomic_files import write_json

__all__ = [
    "CHECK",
    "DIGEST_BYTES",
    "Damaged",
    "digest",
    "fast_digest",
    "fast_file_digest",
    "intact",
    "load_json",
    "load_object",
    "open_line",
    "open_sealed",
    "read_sealed",
    "seal",
    "seal_file",
    "seal_line",
    "write_sealed",
]

CHECK = "check"
"""Key of the checksum in a sealed object or line."""
CHECK_DIGITS = 32
LINE_DIGITS = 16
DIGEST_BYTES = 16
"""Length of a `fast_digest`."""
BLOCK = 1 << 20


class Damaged(UsageError):
    """A file cannot be read, or does not hold what edgewright wrote.

    Args:
        file: the file.
        why: what is wrong with it.
        hint: what to type.
    """

    def __init__(self, file: Path, why: object, hint: str) -> None:
        super().__init__(f"{file}: damaged: {why}", hint)


def digest(value: Any) -> str:
    """The sha256 of a JSON value; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fast_digest(start: bytes = b"") -> xxhash.xxh3_128:
    """A running digest for large data (XXH3, 128 bits); noticing damage is all that it is for."""
    return xxhash.xxh3_128(start)


def fast_file_digest(file: Path) -> str:
    """The `fast_digest` of a file, in hexadecimal digits."""
    with file.open("rb") as handle:
        return _digest_of_rest(handle).hex()


def _digest_of_rest(handle: BinaryIO) -> bytes:
    found = fast_digest()
    for block in iter(partial(handle.read, BLOCK), b""):
        found.update(block)
    return found.digest()


def seal_file(file: Path) -> None:
    """Put the digest of a file's data into its first `DIGEST_BYTES`, which were left free."""
    with file.open("r+b") as handle:
        handle.seek(DIGEST_BYTES)
        found = _digest_of_rest(handle)
        handle.seek(0)
        handle.write(found)


@contextmanager
def open_sealed(file: Path, hint: str) -> Iterator[BufferedReader]:
    """A file that `seal_file` sealed, open where its data begin.

    Args:
        file: the file.
        hint: what to type if it is damaged.

    Raises:
        Damaged: it cannot be read, or its data are not what was written.
    """
    try:
        handle = file.open("rb")
    except OSError as error:
        raise Damaged(file, error.strerror or error, hint) from error
    with handle:
        recorded = handle.read(DIGEST_BYTES)
        if _digest_of_rest(handle) != recorded:
            raise Damaged(file, "its content is not what edgewright wrote", hint)
        handle.seek(DIGEST_BYTES)
        yield handle


def seal(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object as JSON holds it, with its checksum."""
    plain = json.loads(json.dumps({k: v for k, v in value.items() if k != CHECK}))
    return {**plain, CHECK: digest(plain)[:CHECK_DIGITS]}


def intact(value: Mapping[str, Any]) -> bool:
    """Whether an object that was read has a checksum, and it is right."""
    return _has_check(value, CHECK_DIGITS)


def _has_check(value: Mapping[str, Any], digits: int) -> bool:
    rest = {key: inner for key, inner in value.items() if key != CHECK}
    return value.get(CHECK) == digest(rest)[:digits]


def seal_line(row: Mapping[str, Any]) -> str:
    """An object as a line of a sealed JSONL file."""
    return json.dumps({**row, CHECK: digest(row)[:LINE_DIGITS]}, ensure_ascii=False) + "\n"


def open_line(line: bytes) -> dict[str, Any] | None:
    """The object in a sealed line, without its checksum; None if the line is damaged."""
    try:
        row = json.loads(line)
        whole = isinstance(row, dict) and _has_check(row, LINE_DIGITS)
    except (ValueError, RecursionError):
        return None
    return {key: value for key, value in row.items() if key != CHECK} if whole else None


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object with its checksum, atomically.

    Raises:
        NotWritten: it cannot be written; `NoSpace` if the disk is full.
    """
    write_json(path, seal(value))


def load_json(file: Path, hint: str) -> Any:
    """The value of a JSON file that edgewright wrote.

    Args:
        file: the file.
        hint: what to type if it is damaged.

    Raises:
        Damaged: it cannot be read, or is not JSON.
    """
    try:
        return read_json(file, hint, halves=True)
    except UsageError as error:
        raise Damaged(file, str(error).removeprefix(f"{file}: "), hint) from error


def load_object(file: Path, hint: str) -> dict[str, Any]:
    """The object in a JSON file; see `load_json`.

    Raises:
        Damaged: also if it is another JSON value.
    """
    value = load_json(file, hint)
    if not isinstance(value, dict):
        raise Damaged(file, "not a JSON object", hint)
    return value


def read_sealed(file: Path, hint: str, *, older: bool = False) -> dict[str, Any]:
    """The object in a sealed file, without its checksum.

    Args:
        file: the file.
        hint: what to type if it is damaged.
        older: accept a file without a checksum, as older versions of edgewright wrote it.

    Raises:
        Damaged: it cannot be read, or its content is not what was written.
    """
    value = load_object(file, hint)
    if not (intact(value) or (older and CHECK not in value)):
        raise Damaged(file, "its content is not what edgewright wrote", hint)
    return {key: inner for key, inner in value.items() if key != CHECK}
