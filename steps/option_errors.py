"""What is wrong with the value of an option, in words for its user. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import nearest

__all__ = ["reason"]

WHOLE = 1
"""The upper limit of a share."""
LISTS = ("tuple_type", "list_type")
NUMBERS = ("float_parsing", "float_type", "int_parsing", "int_type", "int_from_float")


def reason(error: Mapping[str, Any]) -> str:
    """The message of one error of pydantic. Of an option that is a share, it says so.

    Of an option with choices, it says which they are, and which one is most like what was given.
    """
    if error["type"] == "literal_error":
        expected = error["ctx"]["expected"].replace("'", "")
        near = nearest(str(error["input"]), re.split(", | or ", expected))
        return f"use {expected}{near and f'; did you mean `{near}`?'}"
    if error["type"] in LISTS:
        if isinstance(error["input"], Mapping):
            return "takes a list: begin each entry with `- `"
        return f"takes a list, such as [{error['input']!s:.40}]"
    if error["type"] in NUMBERS:
        whole = "whole " if error["type"].startswith("int") else ""
        share = ", such as 0.25" if "%" in str(error["input"]) else ""
        return f"{error['input']!r:.40} is no {whole}number{share}"
    if error["type"] == "string_type" and isinstance(error["input"], float | int):
        return f"{error['input']!r:.40} is no text: write it in quotes"
    if error["type"] == "missing":
        return "is missing"
    text = str(error["msg"]).removeprefix("Value error, ")
    limits = error.get("ctx", {})
    if WHOLE in (limits.get("lt"), limits.get("le")):
        return f"{text}: it is a share between 0 and 1, such as 0.25 for a quarter"
    return text
