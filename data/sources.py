"""Parse and read SOURCE strings, which name text for calibration, training and evaluation.

They are `text:FILE`, `jsonl:FILE[:FIELD]`, `parquet:FILE[:FIELD]`, `hf:NAME[:CONFIG][:SPLIT]` and
`builtin:NAME`.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import EdgewrightError, UsageError
from .packing import IGNORE, Encoded, Example, encode, pack
from .reasoning import Problem, held_out, held_out_questions, training_problems

__all__ = ["Source", "json_lines", "rows_hash", "scoring_rows", "training_rows"]

BUILTINS = ("reasoning",)
CHUNK = 1 << 16
"""Characters of plain text that are tokenized at a time."""
TEXT_FIELDS = ("text", "content", "completion")
PAIR_FIELDS = (("question", "answer"), ("prompt", "completion"), ("instruction", "output"))


@dataclass(frozen=True)
class Source:
    """A parsed SOURCE string."""

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
        if kind == "hf":
            name, _, field = rest.partition(":")
            return cls(kind, name, field)
        if kind not in ("text", "jsonl", "parquet"):
            raise UsageError(
                f"{text}: not a data source",
                "write text:FILE, jsonl:FILE[:FIELD], parquet:FILE[:FIELD], hf:NAME or "
                "builtin:NAME",
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

    def fingerprint(self) -> str:
        """A hash of the file's content, or of the name of built-in and hub data."""
        digest = hashlib.sha256(str(self).encode())
        if self.kind in ("text", "jsonl", "parquet"):
            with open(self.name, "rb") as handle:
                digest = hashlib.file_digest(handle, "sha256")
        return digest.hexdigest()

    def training(self, seed: int) -> Iterator[Example]:
        """Examples for training or calibration: endless for built-in tasks, else one pass."""
        if self.kind == "builtin":
            return (
                Example(p.completion, p.question)
                for p in training_problems(seed, held_out_questions())
            )
        return self._examples()

    def scoring(self, count: int) -> Iterator[Example]:
        """Examples to score: at most `count` held-out problems of a built-in task, else all."""
        if self.kind == "builtin":
            return (Example(p.completion, p.question) for p in self.problems(count))
        return self._examples()

    def problems(self, count: int) -> list[Problem]:
        """The first `count` held-out problems of a built-in task."""
        if self.kind != "builtin":
            raise UsageError(f"{self}: has no verifier", "use the built-in task: reasoning")
        return held_out(count)

    def _examples(self) -> Iterator[Example]:
        if self.kind == "text":
            yield from _text(self.name)
            return
        found = False
        for number, row in enumerate(self._table(), 1):
            found = True
            yield _example(row, self.field, f"{self.name}, row {number}")
        if not found:
            raise UsageError(f"{self}: no rows", "give a file with at least one row")

    def _table(self) -> Iterator[dict[str, Any]]:
        if self.kind == "jsonl":
            yield from json_lines(self.name)
        elif self.kind == "parquet":
            datasets = _datasets()
            yield from datasets.load_dataset(
                "parquet", data_files=self.name, split="train", streaming=True
            )
        else:
            config, _, split = self.field.rpartition(":")
            yield from _datasets().load_dataset(
                self.name, config or None, split=split or "train", streaming=True
            )


def _datasets() -> Any:
    try:
        datasets: Any = importlib.import_module("datasets")  # here, because it is an extra
    except ImportError as error:
        raise EdgewrightError(
            "parquet and hub data need the datasets package", "pip install 'edgewright[data]'"
        ) from error
    return datasets


def _text(name: str) -> Iterator[Example]:
    try:
        with open(name, encoding="utf-8") as handle:
            while chunk := "".join(handle.readlines(CHUNK)):
                yield Example(chunk)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 text: {error}", "convert the file to UTF-8") from error


def json_lines(name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file, one per line. Empty lines are skipped.

    Raises:
        UsageError: a line is not a JSON object; the message has its number.
    """
    with open(name, "rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode())
            except UnicodeDecodeError as error:
                raise UsageError(
                    f"{name}, line {number}: not UTF-8 text: {error}", "convert the file to UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise UsageError(
                    f"{name}, line {number}: not JSON: {error.msg}",
                    "write one JSON object per line",
                ) from error
            if not isinstance(row, dict):
                raise UsageError(
                    f"{name}, line {number}: not a JSON object", "write one JSON object per line"
                )
            yield row


def _example(row: dict[str, Any], field: str, where: str) -> Example:
    if field:
        if field not in row:
            raise UsageError(f"{where}: no field `{field}`", f"fields there: {', '.join(row)}")
        return Example(str(row[field]))
    for prompt, completion in PAIR_FIELDS:
        if prompt in row and completion in row:
            return Example(str(row[completion]), str(row[prompt]))
    for name in TEXT_FIELDS:
        if name in row:
            return Example(str(row[name]))
    raise UsageError(
        f"{where}: no text field among {', '.join(row)}", "name the field: jsonl:FILE:FIELD"
    )


def _prefix(tokenizer: Any) -> list[int]:
    """The tokens that a tokenizer puts before any text (a begin token, or none)."""
    return list(tokenizer("")["input_ids"])


def _windows(tokenizer: Any, examples: Iterator[Example], seq_len: int) -> Iterator[Encoded]:
    """Packed rows. Each one begins with the tokenizer's prefix, which some models need."""
    prefix = _prefix(tokenizer)
    skip = len(prefix)

    def bare(example: Example) -> Encoded:
        row = encode(tokenizer, example)
        return Encoded(row.ids[skip:], row.labels[skip:]) if row.ids[:skip] == prefix else row

    for row in pack((bare(e) for e in examples), seq_len - skip):
        yield Encoded(prefix + row.ids, [IGNORE] * skip + row.labels)


def training_rows(
    tokenizer: Any, source: Source, seq_len: int, seed: int, count: int | None = None
) -> Iterator[Encoded]:
    """Packed rows of `seq_len` tokens: `count` of them, or without it as many as there are.

    Raises:
        UsageError: the source is too small for one row.
    """
    rows = _windows(tokenizer, source.training(seed), seq_len)
    first = next(rows, None)
    if first is None:
        raise UsageError(
            f"{source}: fewer than {seq_len} tokens, too few for one row",
            "give more text, or a smaller --seq-len",
        )
    return itertools.islice(itertools.chain([first], rows), count)


def scoring_rows(tokenizer: Any, source: Source, seq_len: int, count: int) -> list[Encoded]:
    """Rows to score, at most `count`, each of at most `seq_len` tokens.

    If the examples have prompts, each is a row. Otherwise their text is cut into full windows.

    Raises:
        UsageError: the source has nothing to score.
    """
    examples = itertools.islice(source.scoring(count), 1_000_000)
    first = next(examples, None)
    if first is None:
        raise UsageError(f"{source}: nothing to score", "give a source that contains text")
    examples = itertools.chain([first], examples)
    if first.prompt:
        rows = (encode(tokenizer, e) for e in examples)
        chosen = [
            Encoded(r.ids[:seq_len], r.labels[:seq_len]) for r in itertools.islice(rows, count)
        ]
    else:
        chosen = list(itertools.islice(_windows(tokenizer, examples, seq_len), count))
    if not chosen:
        raise UsageError(
            f"{source}: fewer than {seq_len} tokens, too few for one row",
            "give more text, or a smaller --seq-len",
        )
    if all(label == IGNORE for row in chosen for label in row.labels[1:]):
        raise UsageError(
            f"{source}: all rows end before the first scored token, after {seq_len} tokens",
            "give a larger --seq-len",
        )
    return chosen


def rows_hash(rows: Sequence[Encoded]) -> str:
    """A short hash of token rows. Results are compared only if their rows are equal."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.ids, row.labels]).encode())
    return digest.hexdigest()[:16]
