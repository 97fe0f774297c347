"""The built-in prompts: varied requests that a model answers to make its own calibration text.

About 35 % are about code, 25 % about mathematics and reasoning, the rest is general. Every prefix
has these shares.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

from .files import json_lines

__all__ = ["builtin_prompts", "prompts_hash"]

FILE = Path(__file__).with_name("prompts.jsonl")


@cache
def builtin_prompts() -> tuple[str, ...]:
    """All prompts, in their fixed order."""
    return tuple(row["prompt"] for row in json_lines(str(FILE)))


@cache
def prompts_hash() -> str:
    """A hash of all prompts and their order."""
    return hashlib.sha256(json.dumps(builtin_prompts()).encode()).hexdigest()
