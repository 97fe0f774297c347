"""The expressions of GitHub Actions, `${{ inputs.install || github.action_ref }}`, evaluated.

What the files of this repository use is here: contexts, texts, `==`, `!=`, `!`, `&&`, `||`,
parentheses, and the functions of a step's state. Anything else is an error, as is an unknown name:
GitHub would take it for an empty text, and nobody would notice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TOKENS = re.compile(r"\s*(?:('(?:[^']|'')*')|(&&|\|\||==|!=|[!()])|([A-Za-z_][\w.-]*))")
STATE = ("success", "failure", "always", "cancelled")


def evaluate(text: str, contexts: Mapping[str, Any], *, failed: bool = False) -> Any:
    """The value of an expression.

    Args:
        text: without `${{` and `}}`.
        contexts: by name, with mappings inside.
        failed: whether an earlier step failed.
    """
    tokens = _tokens(text)
    value = _either(tokens, contexts, failed)
    assert not tokens, f"`{text}`: what does {tokens} mean?"
    return value


def filled(text: str, contexts: Mapping[str, Any]) -> str:
    """A text with every expression in it replaced by its value."""
    return re.sub(r"\$\{\{(.*?)\}\}", lambda m: str(evaluate(m[1], contexts)), text)


def runs(condition: str, contexts: Mapping[str, Any], *, failed: bool) -> bool:
    """Whether a step with this `if` is run: only after success, unless it asks for the state."""
    inner = re.sub(r"^\$\{\{(.*)\}\}$", r"\1", condition.strip())
    asks = any(f"{name}()" in inner for name in STATE)
    return (asks or not failed) and (not inner or bool(evaluate(inner, contexts, failed=failed)))


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    at = 0
    while text[at:].strip():
        token = TOKENS.match(text, at)
        assert token, f"`{text}`: cannot be read from `{text[at:]}`"
        found.append(token[0].strip())
        at = token.end()
    return found


def _either(tokens: list[str], contexts: Mapping[str, Any], failed: bool) -> Any:
    value = _both(tokens, contexts, failed)
    while tokens and tokens[0] == "||":
        tokens.pop(0)
        other = _both(tokens, contexts, failed)
        value = value or other
    return value


def _both(tokens: list[str], contexts: Mapping[str, Any], failed: bool) -> Any:
    value = _compared(tokens, contexts, failed)
    while tokens and tokens[0] == "&&":
        tokens.pop(0)
        other = _compared(tokens, contexts, failed)
        value = value and other
    return value


def _compared(tokens: list[str], contexts: Mapping[str, Any], failed: bool) -> Any:
    value = _single(tokens, contexts, failed)
    if tokens and tokens[0] in ("==", "!="):
        sign = tokens.pop(0)
        other = _single(tokens, contexts, failed)
        return (str(value) == str(other)) == (sign == "==")
    return value


def _single(tokens: list[str], contexts: Mapping[str, Any], failed: bool) -> Any:
    token = tokens.pop(0)
    if token == "!":
        return not _single(tokens, contexts, failed)
    if token == "(":
        value = _either(tokens, contexts, failed)
        assert tokens.pop(0) == ")"
        return value
    if token.startswith("'"):
        return token[1:-1].replace("''", "'")
    if token in STATE and tokens[:2] == ["(", ")"]:
        del tokens[:2]
        return {"success": not failed, "failure": failed, "always": True}[token]
    value: Any = contexts
    for part in token.split("."):
        assert isinstance(value, Mapping) and part in value, f"`{token}` is not known to the runner"
        value = value[part]
    return value
