"""What the tests of data share: a tokenizer, and JSONL files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from edgewright.data.sources import Source


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Any:
    """The demo model's tokenizer: no token before a text, and a chat template."""
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def jsonl(file: Path, *rows: Any) -> Source:
    """Write rows to a JSONL file, and return it as a source."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source.parse(f"jsonl:{file}")
