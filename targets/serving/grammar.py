"""JSON schemas as grammars: which tokens may come next is computed by llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .failures import Rejected

__all__ = ["Grammars"]

WHITESPACE = r"[ \n]{1,32}"
"""Between two tokens of JSON. Without a limit, a weak model may write nothing else."""


class Grammars:
    """Compiles JSON schemas for the tokens of one model.

    Args:
        tokenizer: transformers' tokenizer.
        vocabulary: number of logits of a position.
        ends: tokens that end an answer.
        most_bytes: the size of the largest schema.
    """

    def __init__(
        self, tokenizer: Any, vocabulary: int, ends: frozenset[int], most_bytes: int
    ) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._ends = sorted(ends)
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._tokens: Any = None

    def matcher(self, schema: Mapping[str, Any], param: str) -> Any:
        """What follows an answer in this schema, token by token; copy it for each answer.

        Args:
            schema: the JSON schema.
            param: the field of the request that has it.

        Raises:
            Rejected: the schema is too large, is none, or has keywords that are not supported;
                or llguidance is not installed.
        """
        text = json.dumps(schema)
        if len(text) > self._most_bytes:
            raise Rejected(
                400,
                f"{param}: the schema has {len(text)} bytes, and may have {self._most_bytes}",
                param=param,
                code="string_above_max_length",
            )
        try:
            compiler: Any = import_module("llguidance").LLMatcher
        except ImportError as error:
            raise Rejected(
                400,
                f"{param}: this server lacks llguidance: pip install 'edgewright[serve]'",
                param=param,
                code="unsupported_parameter",
            ) from error
        grammar = compiler.grammar_from_json_schema(
            text, overrides={"whitespace_pattern": WHITESPACE}
        )
        matcher = compiler(self._known_tokens(), grammar, log_level=0)
        if matcher.is_error():
            raise Rejected(
                400,
                f"{param}: the schema is not supported: {matcher.get_error()}",
                param=param,
                code="invalid_value",
            )
        return matcher

    def _known_tokens(self) -> Any:
        """The model's tokens as llguidance knows them; they take a second for a large model."""
        with self._lock:
            if self._tokens is None:
                self._tokens = import_module("llguidance.hf").from_tokenizer(
                    self._tokenizer, n_vocab=self._vocabulary, eos_token=self._ends or None
                )
            return self._tokens
