"""Rows of data: JSONL, plain text, Parquet, and the SOURCE strings that name them."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ...checkpoints.config import BUILTIN_MODEL, model_path
from ...checkpoints.tokenizer import load_tokenizer
from ...data.rows import RowReport
from ...data.sources import Source, training_rows
from .changes import changed_bytes, changed_json

__all__ = ["data_readers"]

ROWS: list[Any] = [
    {"text": "some text"},
    {"question": "2+2?", "answer": "#### 4"},
    {"prompt": "a", "completion": "b"},
    {"instruction": "do", "input": "x", "output": "y"},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
    },
]
PREFIXES = ("jsonl:", "text:", "parquet:", "builtin:", "hf:", "")


class _Rows:
    """Reads rows to the end, as training does."""

    def __init__(self) -> None:
        self.tokenizer: Any = load_tokenizer(Path(model_path(BUILTIN_MODEL)))

    def source(self, text: str) -> None:
        """Read the first rows of a source, and its tokens."""
        source = Source.parse(text)
        report = RowReport("skip")
        for _ in islice(source.training(0, report), 50):
            pass
        for _ in islice(training_rows(self.tokenizer, source, 4, 0, 5, RowReport("skip")), 5):
            pass
        source.fingerprint()


def _jsonl() -> st.SearchStrategy[bytes]:
    lines = st.lists(changed_json(ROWS).map(json.dumps).map(str.encode), min_size=1, max_size=5)
    arrays = st.lists(changed_json(ROWS), max_size=4).map(json.dumps).map(str.encode)
    return changed_bytes(st.one_of(lines.map(b"\n".join), lines.map(b"\n".join), arrays))


def _parquet(work: Path) -> bytes:
    import pyarrow
    from pyarrow import parquet

    message = {"role": ["user", "assistant"][0], "content": "a"}
    answer = {"role": "assistant", "content": "b"}
    table = pyarrow.table(
        {"text": ["a b c"] * 20, "n": range(20), "messages": [[message, answer]] * 20}
    )
    parquet.write_table(table, work / "rows.parquet")
    return (work / "rows.parquet").read_bytes()


def data_readers(work: Path) -> list[tuple[Any, ...]]:
    """The arguments of `FileReader` for each kind."""
    rows = _Rows()
    packed = changed_bytes(_jsonl().map(gzip.compress))
    names = st.tuples(
        st.sampled_from(PREFIXES), st.text(max_size=12), st.sampled_from(("", "[1:]", "[-3:]"))
    )
    typed = names.map(lambda parts: {"typed": "".join(parts).encode(errors="replace")})
    return [
        (
            "JSONL",
            _jsonl().map(lambda c: {"a.jsonl": c}),
            lambda f: rows.source(f"jsonl:{f}/a.jsonl"),
            12,
        ),
        (
            "JSONL, gzip",
            packed.map(lambda c: {"a.jsonl.gz": c}),
            lambda f: rows.source(f"jsonl:{f}/a.jsonl.gz"),
            5,
        ),
        (
            "plain text",
            changed_bytes(b"some words of text\n" * 9).map(lambda c: {"a.txt": c}),
            lambda f: rows.source(f"text:{f}/a.txt"),
            5,
        ),
        (
            "Parquet",
            changed_bytes(_parquet(work)).map(lambda c: {"a.parquet": c}),
            lambda f: rows.source(f"parquet:{f}/a.parquet"),
            5,
        ),
        ("SOURCE strings", typed, lambda f: Source.parse((f / "typed").read_text()), 5),
    ]
