"""What is wrong with the value of an option, in words for its user. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import nearest

__all__ = ["reason"]

WHOLE = 1
"""The upper limit of a share."""


def reason(error: Mapping[str, Any]) -> str:
    """The message of one error of pydantic. Of an option that is a share, it says so.

    Of an option with choices, it says which they are, and which one is most like what was given.
    """
    if error["type"] == "literal_error":
        expected = error["ctx"]["expected"].replace("'", "")
        near = nearest(str(error["input"]), re.split(", | or ", expected))
        return f"use {expected}{near and f'; did you mean `{near}`?'}"
    text = str(error["msg"]).removeprefix("Value error, ")
    limits = error.get("ctx", {})
    if WHOLE in (limits.get("lt"), limits.get("le")):
        return f"{text}: it is a share between 0 and 1, such as 0.25 for a quarter"
    return text
