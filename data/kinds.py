"""The kinds of data, and how each is written. Imports no torch: the help needs them."""

from __future__ import annotations

__all__ = ["FILES", "KINDS", "PROBLEMS", "RANGE", "TABLES", "USAGE"]

KINDS = {
    "text": "text:FILE",
    "jsonl": "jsonl:FILE[:FIELD]",
    "parquet": "parquet:FILE[:FIELD]",
    "hf": "hf:NAME[:CONFIG][:SPLIT][:FIELD]",
    "builtin": "builtin:NAME",
}
"""By kind, how data of it is written."""
FILES = ("text", "jsonl", "parquet")
"""Kinds that name a file."""
TABLES = ("jsonl", "parquet", "hf")
"""Kinds that have rows, of which a range can be read."""
PROBLEMS = f"a JSONL file, {KINDS['parquet']} or {KINDS['hf']}".replace("[:FIELD]", "")
"""What tasks read their problems from: whole rows, so no field."""
RANGE = "[START:STOP]"
"""How a range of rows is written, behind everything else."""
USAGE = (
    f"{', '.join(list(KINDS.values())[:-1])} or {KINDS['builtin']}; {RANGE} behind a "
    f"{', '.join(TABLES[:-1])} or {TABLES[-1]} source reads only these rows, e.g. [-1000:]"
)
"""How every kind is written, for help and messages."""
