"""Parse and read SOURCE strings, which name text for calibration, training and evaluation.

They are `text:FILE`, `jsonl:FILE[:FIELD]`, `parquet:FILE[:FIELD]`,
`hf:NAME[:CONFIG][:SPLIT][:FIELD]` and `builtin:NAME`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError, UsageError
from .files import json_lines, numbered_rows, parquet_rows, text_chunks
from .hub import HubData, open_hub
from .packing import IGNORE, Encoded, encode, pack
from .prompts import builtin_prompts, prompts_hash
from .reasoning import Problem, held_out, held_out_questions, training_problems
from .rows import BadRow, Conversation, Example, Row, RowReport, parse_row

__all__ = ["Source", "json_lines", "rows_hash", "scoring_rows", "training_rows", "windows"]

BUILTINS = ("reasoning", "prompts", "own")
FILES = ("text", "jsonl", "parquet")


@dataclass(frozen=True)
class Source:
    """A parsed SOURCE string.

    Attributes:
        kind: text, jsonl, parquet, hf or builtin.
        name: the file, the data set of the hub, or the built-in task.
        field: the field that is read. Of hub data, everything after the name: only the data set
            itself can say what is its configuration, its split and its field.
    """

    kind: str
    name: str
    field: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Parse a SOURCE string, and check that a named file exists.

        Raises:
            UsageError: unknown kind or builtin name, or a file that does not exist or is empty.
        """
        kind, _, rest = text.partition(":")
        if kind == "builtin":
            if rest not in BUILTINS:
                raise UsageError(
                    f"{text}: no such built-in data", f"built in: {', '.join(BUILTINS)}"
                )
            return cls(kind, rest)
        if kind == "hf" and rest:
            name, _, field = rest.partition(":")
            return cls(kind, name, field)
        if kind not in FILES:
            raise UsageError(
                f"{text}: not a data source",
                "write text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], "
                "hf:NAME[:CONFIG][:SPLIT][:FIELD] or builtin:NAME",
            )
        file = rest
        field = ""
        if kind != "text" and not Path(rest).is_file():
            file, _, field = rest.rpartition(":")
        if not Path(file).is_file():
            raise UsageError(
                f"{text}: no such file: {file or rest}", "give the path of an existing file"
            )
        if not Path(file).stat().st_size:
            raise UsageError(f"{text}: the file is empty", "give a file that contains text")
        return cls(kind, file, field)

    def __str__(self) -> str:
        """The SOURCE string."""
        return ":".join(part for part in (self.kind, self.name, self.field) if part)

    @property
    def label(self) -> str:
        """The source's name in metrics."""
        return self.name if self.kind == "builtin" else Path(self.name).stem

    @property
    def generated(self) -> bool:
        """Whether the data is a task whose problems are generated without end."""
        return (self.kind, self.name) == ("builtin", "reasoning")

    @property
    def hub(self) -> HubData:
        """What a source of the hub reads."""
        return open_hub(self.name, self.field)

    def content_hash(self) -> str:
        """A hash of the data, whichever field is read: of a file's bytes, or of hub files.

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
        """A hash of everything that is read: the data, and the field if one is named."""
        content = self.content_hash()
        if not self.field:
            return content
        return hashlib.sha256(f"{content}:{self.field}".encode()).hexdigest()

    def training(self, seed: int, report: RowReport | None = None) -> Iterator[Row]:
        """Rows for training or calibration: endless for built-in tasks, else one pass.

        Args:
            seed: of built-in tasks.
            report: says what to do with bad rows, and counts them; default: they are refused.
        """
        if self.generated:
            return (
                Example(p.completion, p.question)
                for p in training_problems(seed, held_out_questions())
            )
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
        field = self.hub.field if self.kind == "hf" else self.field
        found = False
        for where, values in self._table():
            try:
                row = parse_row(values, field, where)
            except BadRow as bad:
                _skip(bad, report)
                continue
            found = True
            yield row
        if not found:
            why = f": {report.notes(str(self))[0]}" if report and report.skipped else ""
            raise UsageError(f"{self}: no rows{why}", "give a file with at least one row")

    def _prompts(self) -> Iterator[Row]:
        if self.name == "own":
            raise UsageError(
                f"{self}: a model writes this text itself, and only to calibrate on",
                "give it as --calibration, or name other data",
            )
        yield from map(Example, builtin_prompts())

    def _table(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows with file and number."""
        if self.kind == "jsonl":
            yield from numbered_rows(self.name)
            return
        rows = parquet_rows(self.name) if self.kind == "parquet" else self.hub.rows()
        for number, row in enumerate(rows, 1):
            yield f"{self.name}, row {number}", row


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


def _prefix(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before any text (a begin token, or none)."""
    return list(tokenizer("")["input_ids"])


def windows(tokenizer: Any, rows: Iterable[Encoded], seq_len: int) -> Iterator[Encoded]:
    """Packed rows. Each one begins with the tokenizer's prefix, which some models need."""
    prefix = _prefix(tokenizer)
    skip = len(prefix)

    def bare(row: Encoded) -> Encoded:
        return Encoded(row.ids[skip:], row.labels[skip:]) if row.ids[:skip] == prefix else row

    for row in pack(map(bare, rows), seq_len - skip):
        yield Encoded(prefix + row.ids, [IGNORE] * skip + row.labels)


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

    Each pair and each conversation is a row. Plain text is cut into full windows.

    Raises:
        UsageError: the source has nothing to score, or a bad row.
    """
    examples = itertools.islice(source.scoring(count, report), 1_000_000)
    encoded = _encoded(tokenizer, examples, report)
    first = next(encoded, None)
    if first is None:
        raise _too_small(source, seq_len, report)
    rows = (tokens for _, tokens in itertools.chain([first], encoded))
    if isinstance(first[0], Conversation) or first[0].prompt:
        chosen = [
            Encoded(r.ids[:seq_len], r.labels[:seq_len]) for r in itertools.islice(rows, count)
        ]
    else:
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


def rows_hash(rows: Sequence[Encoded]) -> str:
    """A short hash of token rows. Results are compared only if their rows are equal."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.ids, row.labels]).encode())
    return digest.hexdigest()[:16]
