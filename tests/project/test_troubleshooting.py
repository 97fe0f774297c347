"""Every message that docs/troubleshooting.md quotes is in the code, and its advice exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from edgewright.docs.import_graph import ROOT, sources

PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = "..."
"""Stands on the page for a part of the message that differs from case to case."""


def quoted() -> list[str]:
    """The messages of the page: what is in backticks in the first cell of a row."""
    return [cell for _, cell in re.findall(r"^\| (``?)(.+?)\1 \|", PAGE.read_text(), re.M)]


def text_of(node: ast.expr) -> str:
    """A string of the code, with a gap for each value that is put into it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "\0"


@cache
def strings() -> list[str]:
    """Every string of the shipped code."""

    def inside(tree: ast.Module) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                yield text_of(node)

    return [text for tree in sources().values() for text in inside(tree) if len(text) > 8]


def is_said(message: str) -> bool:
    """Whether the code has a string with the words of the message, in their order."""
    return any(has_in_order(text, message.split(GAP)) for text in strings())


def has_in_order(text: str, parts: list[str]) -> bool:
    """Whether a text has all these parts, one behind the other."""
    end = 0
    for part in parts:
        begin = text.find(part, end)
        if begin < 0:
            return False
        end = begin + len(part)
    return True


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) > 50
    assert len(set(quoted())) == len(quoted())


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert is_said(message)


def test_a_message_that_nothing_says_is_found() -> None:
    assert not is_said("...: the moon is too far away")
    assert not is_said("nothing to prune, and nothing to bake")
