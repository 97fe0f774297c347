"""Rules by layer name: other bits or groups for some layers, or no quantization at all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field, field_validator, model_validator

from ...checkpoints.scheme import Scheme
from ...errors import UsageError
from ...steps.panels import Panels
from ...steps.strict import STRICT

__all__ = [
    "GROUP_SIZES",
    "Rule",
    "Sensitivity",
    "check_rules",
    "first_match",
    "parsed_rule",
    "stored_bytes",
]

GROUP_SIZES = (32, 64, 128, -1)
"""Input channels that may share a scale; -1: all of them."""

REGEX = "re:"
"""Prefix of a rule whose pattern is a regular expression."""


class Rule(BaseModel):
    """The bits and group size of layers whose full names match. The first matching rule counts."""

    model_config = STRICT

    match: str = Field(
        min_length=1,
        description="full module name, in which * stands for anything; or re: and a regular "
        "expression",
    )
    bits: Literal[2, 3, 4, 8] | None = Field(
        default=None, description="bits per weight; default: those of the step"
    )
    group_size: Literal[-1, 32, 64, 128] | None = Field(
        default=None, description="input channels that share a scale; default: as in the step"
    )
    skip: bool = Field(default=False, description="leave the weights in floating point")

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value.removeprefix(REGEX) if value.startswith(REGEX) else "")
        except re.error as error:
            raise ValueError(f"`{value}` is not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Rule:
        if self.skip == bool(self.bits or self.group_size):
            raise ValueError(
                f"the rule for `{self.match}` must give either bits or a group size, or skip"
            )
        return self

    @property
    def pattern(self) -> str:
        """A regular expression that matches these names, anchored at their beginning."""
        if self.match.startswith(REGEX):
            return self.match.removeprefix(REGEX)
        return f"^{'.*'.join(re.escape(part) for part in self.match.split('*'))}$"

    def matches(self, name: str) -> bool:
        """Whether the rule applies to a module of this full name."""
        return re.match(self.pattern, name) is not None


class Sensitivity(BaseModel):
    """More bits for the matrices that lose most at few bits, within a budget of bytes."""

    model_config = STRICT
    panels: ClassVar = Panels("Other bits for some matrices")

    keep_bits: Literal[3, 4, 8] = Field(
        default=8, description="bits of the matrices that suffer most"
    )
    budget: float = Field(
        default=0.05,
        gt=0,
        description="bytes that these matrices may take in addition; below 1: a share of all "
        "quantized matrices",
    )

    def bytes_of(self, quantized: int) -> int:
        """The budget in bytes, if all quantized matrices take `quantized` bytes."""
        return int(self.budget * quantized if self.budget < 1 else self.budget)


def parsed_rule(text: str) -> dict[str, Any]:
    """Parse a rule of the command line: `PATTERN=BITS`, `PATTERN=BITS:GROUP` or `PATTERN=skip`.

    Raises:
        UsageError: the text has another form.
    """
    match, equals, action = text.rpartition("=")
    bits, _, group = action.partition(":")
    if match and equals and action == "skip":
        return {"match": match, "skip": True}
    if match and equals and bits.isdigit() and (not group or group.removeprefix("-").isdigit()):
        return {"match": match, "bits": int(bits)} | ({"group_size": int(group)} if group else {})
    raise UsageError(
        f"--rule {text}: not PATTERN=BITS, PATTERN=BITS:GROUP or PATTERN=skip",
        "write --rule '*NAME*=8'",
    )


def first_match(rules: Iterable[Rule], name: str) -> Rule | None:
    """The first rule that matches a module name; None if there is none."""
    return next((rule for rule in rules if rule.matches(name)), None)


def check_rules(rules: Iterable[Rule], names: Iterable[str]) -> None:
    """Refuse rules that match no layer. Most often the name has a typing error.

    Raises:
        UsageError: lists these rules and similar names.
    """
    known = list(names)
    unmatched = [rule.match for rule in rules if not any(rule.matches(name) for name in known)]
    if unmatched:
        near = [
            name
            for match in unmatched
            for name in difflib.get_close_matches(match.removeprefix(REGEX), known, n=3, cutoff=0.3)
        ]
        raise UsageError(
            f"no quantized layer matches the rule{'s' if len(unmatched) > 1 else ''} "
            f"{', '.join(f'`{match}`' for match in unmatched)}",
            f"similar names: {', '.join(near or known[:3])}",
        )


def stored_bytes(shape: tuple[int, int], scheme: Scheme | None) -> int:
    """Bytes of a quantized matrix [out, in] with its scales. Without a scheme: half precision."""
    outputs, width = shape
    if scheme is None:
        return 2 * outputs * width
    return outputs * width * scheme.bits // 8 + 2 * outputs * (width // scheme.group(width))
