"""A backend that answers from a script, and files of tasks, for the tests of tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgewright.console import Bar
from edgewright.data.sources import Source
from edgewright.generation.decoding import Decoding


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def problems(file: Path) -> Source:
    """The problems of a JSONL file."""
    return Source.parse(f"jsonl:{file}")


class Scripted:
    """A backend that returns prepared answers, in the order of the tokenizer's prompts."""

    name, dtype, device = "scripted", "float32", "cpu"
    eos = (0,)

    def __init__(self, tokenizer: Any, replies: dict[str, str]) -> None:
        self.tokenizer, self.replies, self.prompts = tokenizer, replies, []

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: Decoding, bar: Bar
    ) -> list[list[int]]:
        rows: list[list[int]] = []
        for ids in prompts:
            prompt = self.tokenizer.decode(ids)
            self.prompts.append(prompt)
            reply = next(reply for asked, reply in self.replies.items() if asked in prompt)
            ids = self.tokenizer(reply, add_special_tokens=False)["input_ids"]
            rows.append([*ids, min(decoding.ends)])
        return rows
