"""Parse and read SOURCE strings, which name data for calibration, training and evaluation.

`kinds.py` says how each kind is written. A range of rows may follow: `jsonl:FILE[-1000:]`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError, UsageError
from .files import UnreadRow, json_rows, parquet_rows, text_chunks
from .hub import TEST_SPLITS, TRAIN_SPLITS, HubData, open_hub, require_datasets
from .kinds import FILES, PROBLEMS, TABLES
from .packing import IGNORE, Encoded, encode, windows
from .prompts import builtin_prompts, prompts_hash
from .reasoning import Problem, held_out, held_out_questions, training_problems
from .row_range import ALL_ROWS, RowRange
from .rows import BadRow, Conversation, Example, Row, RowReport, parse_row
from .source_strings import split_source

__all__ = ["Source", "scoring_rows", "training_rows"]


@dataclass(frozen=True)
class Source:
    """A parsed SOURCE string.

    Attributes:
        kind: text, jsonl, parquet, hf or builtin.
        name: the file, the data set of the hub, or the built-in task.
        field: the field that is read. Of hub data, everything after the name: only the data set
            itself can say what is its configuration, its split and its field.
        part: the range of rows that is read.
        for_tasks: whether the rows are problems of a task. They are read whole, and of hub data
            those of the test split are preferred.
    """

    kind: str
    name: str
    field: str = ""
    part: RowRange = ALL_ROWS
    for_tasks: bool = False

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse a SOURCE string, and check that a named file exists.

        Raises:
            UsageError: unknown kind or builtin name, a file that does not exist or is empty, or a
                range that is none.
        """
        kind, _, rest = text.partition(":")
        return cls(kind, *split_source(text, kind, rest))

    @classmethod
    def parse_problems(cls, name: str, text: str) -> Source:
        """Parse what a task reads: a JSONL file, or any SOURCE with rows.

        Args:
            name: the file or the SOURCE.
            text: the TASK string, for messages.

        Raises:
            UsageError: as `parse`.
        """
        kind, _, rest = name.partition(":")
        if kind not in TABLES or os.path.isfile(name):
            kind = "jsonl"
            rest = name
        parts = split_source(text, kind, rest, f"give the path of {PROBLEMS}")
        return cls(kind, *parts, for_tasks=True)

    def __str__(self) -> str:
        """The SOURCE string."""
        return ":".join(filter(None, (self.kind, self.name, self.field))) + str(self.part)

    @property
    def label(self) -> str:
        """The source's name in metrics."""
        if self.kind in FILES:
            return Path(self.name.removesuffix(".gz")).stem
        return Path(self.name).name

    @property
    def generated(self) -> bool:
        """Whether the data is a task whose problems are generated without end."""
        return (self.kind, self.name) == ("builtin", "reasoning")

    @property
    def hub(self) -> HubData:
        """What a source of the hub reads."""
        return open_hub(self.name, self.field, TEST_SPLITS if self.for_tasks else TRAIN_SPLITS)

    def check(self) -> None:
        """Check what `parse` does not read: that a table can be opened and its range has rows.

        A hub that cannot be reached is no error here: finished steps can be reused without it.

        Raises:
            UsageError: there are no such rows.
            EdgewrightError: an optional extra is not installed.
        """
        if self.kind not in TABLES:
            return
        if self.kind != "jsonl":
            require_datasets()
        try:
            next(self.records())
        except UsageError:
            raise
        except EdgewrightError:
            return

    def content_hash(self) -> str:
        """A hash of the data, whichever field and rows are read: of a file's bytes or hub files.

        Generated data, and hub data that cannot be reached, are known by their name.
        """
        if self.kind == "builtin" and not self.generated:
            return hashlib.sha256(f"{self}:{prompts_hash()}".encode()).hexdigest()
        if self.kind in FILES:
            with open(self.name, "rb") as handle:
                return hashlib.file_digest(handle, "sha256").hexdigest()
        try:
            return self.hub.content_hash() if self.kind == "hf" else self._name_hash()
        except EdgewrightError:  # a step that is finished can be reused without the hub
            return self._name_hash()

    def _name_hash(self) -> str:
        return hashlib.sha256(str(self).encode()).hexdigest()

    def fingerprint(self) -> str:
        """A hash of everything that is read: the data, and the field and the range if named."""
        content = self.content_hash()
        chosen = ":".join(filter(None, (self.field, str(self.part))))
        return hashlib.sha256(f"{content}:{chosen}".encode()).hexdigest() if chosen else content

    def same_rows(self, other: Source) -> bool:
        """Whether both read the same rows of the same data, whichever fields.

        Raises:
            UsageError: their ranges overlap, but are not the same.
        """
        if self.content_hash() != other.content_hash():
            return False
        if self.part == other.part:
            return True
        count = sum(1 for _ in self._unread())
        shared = self.part.shared(other.part, count)
        if shared and not self.part.indices(count) == other.part.indices(count) == shared:
            raise UsageError(
                f"{self} and {other} have rows in common: {RowRange(shared.start, shared.stop)}",
                "give both the same range, or ranges without a common row",
            )
        return bool(shared)

    def training(self, seed: int, report: RowReport | None = None) -> Iterator[Row]:
        """Rows for training or calibration: endless for built-in tasks, else one pass.

        Args:
            seed: of built-in tasks.
            report: says what to do with bad rows, and counts them; default: they are refused.
        """
        if self.generated:
            problems = training_problems(seed, held_out_questions())
            return (Example(p.completion, p.question) for p in problems)
        return self._rows(report)

    def scoring(self, count: int, report: RowReport | None = None) -> Iterator[Row]:
        """Rows to score: at most `count` held-out problems of a built-in task, else all."""
        if self.generated:
            return (Example(p.completion, p.question) for p in self.problems(count))
        return self._rows(report)

    def problems(self, count: int) -> list[Problem]:
        """The first `count` held-out problems of a built-in task."""
        if not self.generated:
            raise UsageError(f"{self}: has no verifier", "use the built-in task: reasoning")
        return held_out(count)

    def _rows(self, report: RowReport | None) -> Iterator[Row]:
        if self.kind == "builtin":
            yield from self._prompts()
            return
        if self.kind == "text":
            yield from map(Example, text_chunks(self.name))
            return
        field = self._column
        found = False
        for where, values in self.records():
            try:
                row = parse_row(values, field, where)
            except BadRow as bad:
                _skip(bad, report)
                continue
            found = True
            yield row
        if not found and report:
            raise UsageError(
                f"{self}: no rows: {report.notes(str(self))[0]}",
                "give a file with at least one row",
            )

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the rows of a table as they are, each with its place for messages.

        Raises:
            UsageError: a row is no JSON object, there are no rows in the range, or the rows are
                for a task and a field was named.
        """
        if self.for_tasks and self._column:
            raise UsageError(
                f"{self}: a task reads whole rows, not the field `{self._column}`",
                "leave the field out",
            )
        for where, parse in self.part.choose(self._unread, str(self)):
            yield where, parse()

    def first_row(self) -> int:
        """The number of the first row of `records` in the data, from 1 on as messages count it."""
        return self.part.bounds(self._unread)[0] + 1

    @property
    def _column(self) -> str:
        """The field that is read; empty if none was named."""
        return self.hub.field if self.kind == "hf" else self.field

    def _prompts(self) -> Iterator[Row]:
        if self.name == "own":
            raise UsageError(
                f"{self}: a model writes this text itself, and only to calibrate on",
                "give it as --calibration, or name other data",
            )
        yield from map(Example, builtin_prompts())

    def _unread(self) -> Iterator[UnreadRow]:
        """All rows of a table."""
        if self.kind == "jsonl":
            yield from json_rows(self.name)
            return
        rows = parquet_rows(self.name) if self.kind == "parquet" else self.hub.rows()
        for number, row in enumerate(rows, 1):
            yield f"{self.name}, row {number}", partial(dict, row)


def _skip(bad: BadRow, report: RowReport | None) -> None:
    if report is None:
        raise bad
    report.skip(bad)


def _encoded(
    tokenizer: Any, rows: Iterable[Row], report: RowReport | None
) -> Iterator[tuple[Row, Encoded]]:
    """Rows with their tokens; rows that the chat template refuses are bad rows too."""
    for row in rows:
        try:
            encoded = encode(tokenizer, row, report)
        except BadRow as bad:
            _skip(bad, report)
            continue
        yield row, encoded


def training_rows(
    tokenizer: Any,
    source: Source,
    seq_len: int,
    seed: int,
    count: int | None = None,
    report: RowReport | None = None,
) -> Iterator[Encoded]:
    """Packed rows of `seq_len` tokens: `count` of them, or without it as many as there are.

    Args:
        tokenizer: of the model.
        source: of the text.
        seq_len: tokens of a row.
        seed: of built-in tasks.
        count: the most rows.
        report: says what to do with bad rows of the data, and counts them; default: refuse.

    Raises:
        UsageError: the source is too small for one row, or has a bad row.
    """
    encoded = _encoded(tokenizer, source.training(seed, report), report)
    rows = windows(tokenizer, (tokens for _, tokens in encoded), seq_len)
    first = next(rows, None)
    if first is None:
        raise _too_small(source, seq_len, report)
    return itertools.islice(itertools.chain([first], rows), count)


def scoring_rows(
    tokenizer: Any,
    source: Source,
    seq_len: int,
    count: int,
    report: RowReport | None = None,
) -> list[Encoded]:
    """Rows to score, at most `count`, each of at most `seq_len` tokens.

    Each pair and each conversation is a row, and so are texts among them. Plain text alone is cut
    into full windows.

    Raises:
        UsageError: the source has nothing to score, or a bad row.
    """
    examples = itertools.islice(source.scoring(count, report), 1_000_000)
    encoded = _encoded(tokenizer, examples, report)
    begin = list(itertools.islice(encoded, count))
    if any(isinstance(example, Conversation) or example.prompt for example, _ in begin):
        chosen = [Encoded(row.ids[:seq_len], row.labels[:seq_len]) for _, row in begin]
    else:
        rows = (row for _, row in itertools.chain(begin, encoded))
        chosen = list(itertools.islice(windows(tokenizer, rows, seq_len), count))
    if not chosen:
        raise _too_small(source, seq_len, report)
    if all(label == IGNORE for row in chosen for label in row.labels[1:]):
        raise UsageError(
            f"{source}: all rows end before the first scored token, after {seq_len} tokens",
            "give a larger --seq-len",
        )
    return chosen


def _too_small(source: Source, seq_len: int, report: RowReport | None) -> UsageError:
    """The error for a source without one whole row; it names the rows that were skipped."""
    notes = "".join(f"; {note}" for note in (report.notes("of its rows") if report else []))
    return UsageError(
        f"{source}: fewer than {seq_len} tokens, too few for one row{notes}",
        "give more text, or a smaller --seq-len",
    )
