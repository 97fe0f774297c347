"""JSONL files for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgewright.data.sources import Source


def jsonl(file: Path, *rows: Any) -> Source:
    """Write rows to a JSONL file, and return it as a source."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source.parse(f"jsonl:{file}")
