"""Answers of a measurement that is not finished, kept so that the same command resumes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...checkpoints.sealed import digest
from ...checkpoints.sealed_lines import append_lines, read_lines

__all__ = ["FILE", "WORK", "KeptAnswers"]

WORK = "answers"
"""Kind of the workspace of an unfinished measurement."""
FILE = "answers.jsonl"
"""Its file: one line for each answer."""


class KeptAnswers:
    """The answers of one model to prompts, in a file that grows with every answer.

    An answer is found by what was asked: the tokens of the prompt, and what ends an answer. Whose
    answers they are is recorded by the workspace of the file.

    Args:
        file: the file; it may be there already.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tokens: dict[str, list[int]] = {
            row["asked"]: row["tokens"] for row in read_lines(file)
        }

    def key(self, prompt: Sequence[int], max_new_tokens: int, stops: Sequence[str]) -> str:
        """The name of an answer: a hash of what was asked."""
        return digest([list(prompt), max_new_tokens, list(stops)])

    def find(self, key: str) -> list[int] | None:
        """The tokens of an answer, if there is one."""
        return self._tokens.get(key)

    def put(self, key: str, tokens: Sequence[int]) -> None:
        """Keep an answer.

        Raises:
            NotWritten: it cannot be written; `NoSpace` if the disk is full.
        """
        if key not in self._tokens:
            append_lines(self.file, [{"asked": key, "tokens": list(tokens)}])
        self._tokens[key] = list(tokens)
