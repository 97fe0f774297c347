"""Removes secrets from text that leaves the process: messages, tracebacks, commands, records."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

__all__ = ["redacted", "redacted_values"]

SECRET_NAME = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIAL", re.IGNORECASE
)
SHORTEST_SECRET = 8
"""Shorter values of such variables are settings such as `true`, and part of other words."""
IN_URL = re.compile(r"(?<=://)[^\s/'\"]*@")
ACCESS_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_\w{20,}|(?:AKIA|ASIA)[0-9A-Z]{16})\b"
)
AUTHORIZATION = re.compile(
    r"\b(Basic|Bearer) +(?:(?=\S*[\d=])[\w+/=.~-]{8,}|[\w+/=.~-]{20,})", re.IGNORECASE
)
"""What a client sends to log in. A server may repeat it in an error."""
HIDDEN = "***"


def redacted(text: str) -> str:
    """A text without the secrets of this process: messages and records must not carry them.

    These are the values of environment variables that are named like secrets, user and password in
    a URL, what a client sends to log in, and words with the form of a well-known access token.
    """
    for secret in sorted(_environment_secrets(), key=len, reverse=True):
        for form in (secret, quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(form, HIDDEN)
    text = AUTHORIZATION.sub(rf"\1 {HIDDEN}", IN_URL.sub(f"{HIDDEN}@", text))
    return ACCESS_TOKEN.sub(HIDDEN, text)


def redacted_values(value: Any) -> Any:
    """A JSON value with every text in it redacted."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted(str(key)): redacted_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(inner) for inner in value]
    return value


def _environment_secrets() -> set[str]:
    found = {value for name, value in os.environ.items() if SECRET_NAME.search(name)}
    for value in os.environ.values():
        login = IN_URL.search(value)
        if login:
            password = login[0].removesuffix("@").partition(":")[2]
            found |= {password, unquote(password)}
    return {value for value in found if len(value) >= SHORTEST_SECRET}
