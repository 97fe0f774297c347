"""Say what is wrong with the fields of a request, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .failures import Rejected
from .messages import OTHER_PART
from .requests import NEUTRAL_ONLY

__all__ = ["refusal"]

MOST_FAULTS = 8
"""Faults of a request that an answer names."""
CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "greater_than": "number_below_min_value",
    "greater_than_equal": "number_below_min_value",
    "less_than": "number_above_max_value",
    "less_than_equal": "number_above_max_value",
    "string_too_long": "string_above_max_length",
    "too_long": "array_above_max_length",
    "too_short": "array_below_min_length",
    "string_too_short": "empty_string",
}
"""OpenAI's codes for pydantic's kinds of faults. Other kinds are a wrong type or value."""
ALTERNATIVES = ("str", "constrained-str")
"""What pydantic puts into the path of a field that may be a text; lists have brackets there."""


def refusal(faults: Sequence[Mapping[str, Any]]) -> Rejected:
    """The refusal of a request, which names its first faults and the field of the first one.

    Args:
        faults: pydantic's errors.
    """
    # The fields of a part of another type are faults, too, and say nothing more.
    known = [fault for fault in faults if fault["type"] == OTHER_PART] or faults
    # A field that may be a text or a list has faults of both; those of the other type come last.
    listed = sorted(known, key=_wrong_type)[:MOST_FAULTS]
    shown = "; ".join(f"{_place(fault['loc'])}: {_reason(fault)}" for fault in listed)
    return Rejected(400, shown, param=_place(listed[0]["loc"]) or None, code=_code(listed[0]))


def _wrong_type(fault: Mapping[str, Any]) -> bool:
    return fault["type"].endswith("_type") or fault["type"] == "value_error"


def _place(path: Sequence[Any]) -> str:
    """The path of a field in a request, such as `messages.0.role`."""
    parts = [str(part) for part in path if "[" not in str(part) and part not in ALTERNATIVES]
    return ".".join(parts[1:] if parts[:1] == ["body"] else parts)


def _reason(fault: Mapping[str, Any]) -> str:
    kind = fault["type"]
    if kind == "extra_forbidden":
        return "this server does not support this field: leave it out"
    if kind == "literal_error" and fault["loc"][-1] in NEUTRAL_ONLY:
        return f"this server does not support it: leave it out ({fault['msg']})"
    return str(fault["msg"])


def _code(fault: Mapping[str, Any]) -> str:
    kind = fault["type"]
    if kind == "literal_error" and fault["loc"][-1] in NEUTRAL_ONLY:
        return "unsupported_parameter"
    return CODES.get(kind, "invalid_type" if _wrong_type(fault) else "invalid_value")
