"""What is wrong with the value of an option, in words for its user. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["reason"]

WHOLE = 1
"""The upper limit of a share."""


def reason(error: Mapping[str, Any]) -> str:
    """The message of one error of pydantic. Of an option that is a share, it says so."""
    text = str(error["msg"]).removeprefix("Value error, ")
    limits = error.get("ctx", {})
    if WHOLE in (limits.get("lt"), limits.get("le")):
        return f"{text}: it is a share between 0 and 1, such as 0.25 for a quarter"
    return text
