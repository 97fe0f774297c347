"""Read the files of data: plain text, JSON lines, a JSON array, both with gzip, Parquet.

Text is UTF-8, with or without a byte-order mark, and with any line ends. Empty lines of a JSONL
file are no rows. A name that ends in `.gz` is that of a gzip file.
"""

from __future__ import annotations

import gzip
import importlib
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .hub import require_datasets

__all__ = ["UnreadRow", "json_lines", "json_rows", "parquet_rows", "text_chunks"]

UnreadRow = tuple[str, Callable[[], dict[str, Any]]]
"""The place of a row, for messages, and a function that parses it."""

BATCH = 256
"""Rows of a Parquet file that are read at a time."""
LONGEST_LINE = 64 << 20
"""Bytes of the longest row of a JSONL file."""
LARGEST_ARRAY = 1 << 30
"""Bytes of the largest JSON array, which is read as a whole."""
CHUNK = 1 << 16
"""Characters of plain text that are tokenized at a time."""
TO_UTF8 = "convert the file to UTF-8"
ONE_PER_LINE = "write one JSON object per line"


def text_chunks(name: str) -> Iterator[str]:
    """Yield the text of a file in pieces of whole lines.

    Raises:
        UsageError: the file is not UTF-8, or has only white space.
    """
    if not Path(name).is_file():
        raise UsageError(f"{name}: no file", "give the path of a file")
    try:
        with open(name, encoding="utf-8-sig") as handle:
            if not any(line.strip() for line in handle):
                raise UsageError(
                    f"{name}: the file has only white space", "give a file that contains text"
                )
            handle.seek(0)
            while chunk := "".join(handle.readlines(CHUNK)):
                yield chunk
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text: {error}", TO_UTF8) from error


def json_lines(name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file or of a JSON array. Empty lines are skipped.

    Raises:
        UsageError: a line is not a JSON object; the message has its number.
    """
    return (parse() for _, parse in json_rows(name))


def json_rows(name: str) -> Iterator[UnreadRow]:
    """Yield the rows of a JSONL file or of a JSON array, each with its place: file, row and line.

    The line is named where empty lines make its number another one than the row's.

    Raises:
        UsageError: the file is not UTF-8, or its gzip is damaged. Parsing a row raises it if the
            row is not a JSON object.
    """
    array = _array(name)
    if array is not None:
        for number, item in enumerate(array, 1):
            place = f"{name}, row {number}"
            yield place, partial(_object, item, place)
        return
    row = 0
    with _opened(name) as handle:
        for number in itertools.count(1):
            where = f"{name}, line {number}"
            if not (line := handle.readline(LONGEST_LINE + 1)):
                return
            if len(line) > LONGEST_LINE:
                raise UsageError(f"{where}: longer than {LONGEST_LINE >> 20} MB", ONE_PER_LINE)
            if not (text := _decoded(line, where).strip()):
                continue
            row += 1
            place = f"{name}, row {row}" + (f" (line {number})" if row != number else "")
            yield place, partial(_parsed, text, where)


@contextmanager
def _opened(name: str) -> Iterator[BufferedIOBase]:
    """A file to read, unpacked if its name ends in `.gz`.

    Raises:
        UsageError: what was read of it is not gzip, or is damaged.
    """
    if not Path(name).is_file():  # opening a named pipe would wait for ever
        raise UsageError(f"{name}: no file", "give the path of a file")
    try:
        with gzip.open(name) if name.endswith(".gz") else open(name, "rb") as handle:
            yield handle
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(
            f"{name}: not a gzip file, or damaged: {error}",
            "get the file again; a file that is not packed must not end in .gz",
        ) from error


def _array(name: str) -> list[Any] | None:
    """The items of a file that is one JSON array; None if it is something else."""
    with _opened(name) as handle:
        if not handle.read(1 << 12).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
        handle.seek(0)
        text = handle.read(LARGEST_ARRAY + 1)
        if len(text) > LARGEST_ARRAY:
            raise UsageError(
                f"{name}: a JSON array larger than {LARGEST_ARRAY >> 20} MB", ONE_PER_LINE
            )
        try:
            return json.loads(text.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None  # read as lines, the message has a line number


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 text: {error}", TO_UTF8) from error


def _parsed(text: str, place: str) -> dict[str, Any]:
    try:
        return _object(json.loads(text), place)
    except (ValueError, RecursionError) as error:  # also numbers too long, brackets too deep
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise UsageError(f"{place}: not JSON: {reason}", ONE_PER_LINE) from error


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{place}: not a JSON object", ONE_PER_LINE)
    return value


def parquet_rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file; nested columns are lists and objects.

    The file is read as a table, whatever its metadata say of images and of addresses to load.

    Raises:
        EdgewrightError: the package datasets, which brings pyarrow, is not installed.
        UsageError: it is no Parquet file.
    """
    require_datasets()
    parquet: Any = importlib.import_module("pyarrow.parquet")
    try:
        with parquet.ParquetFile(name) as table:
            for batch in table.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except UsageError:
        raise
    except Exception as error:  # pyarrow has errors of its own, and lets Python's through
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{name}: not a Parquet file: {reason}", "give a Parquet file") from error
