"""A fixture that several tests of data share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Any:
    """The demo model's tokenizer: no token before a text, and a chat template."""
    return AutoTokenizer.from_pretrained(tokenizer_dir)
