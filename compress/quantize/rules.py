"""Rules by name: which layers get other bits or groups than the rest, or stay in floating point."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ...checkpoints.layouts import Scheme
from ...errors import UsageError

__all__ = ["Rule", "Sensitivity", "check_rules", "first_match", "parsed_rule", "stored_bytes"]

REGEX = "re:"


class Rule(BaseModel):
    """What becomes of the layers whose full names match; of several rules that match, the first counts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        min_length=1,
        description="a full module name, in which * stands for anything; or re: and a regular expression",
    )
    bits: Literal[2, 3, 4, 8] | None = Field(
        default=None, description="bits of a weight; default: those of the step"
    )
    group_size: Literal[-1, 32, 64, 128] | None = Field(
        default=None, description="inputs that share a scale; default: that of the step"
    )
    skip: bool = Field(default=False, description="leave the weights in floating point")

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value.removeprefix(REGEX) if value.startswith(REGEX) else "")
        except re.error as error:
            raise ValueError(f"`{value}` is no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.skip == bool(self.bits or self.group_size):
            raise ValueError(
                f"the rule for `{self.match}` must give either bits or a group size, or skip"
            )
        return self

    @property
    def pattern(self) -> str:
        """A regular expression that matches just these names from their beginning on."""
        if self.match.startswith(REGEX):
            return self.match.removeprefix(REGEX)
        return f"^{'.*'.join(re.escape(part) for part in self.match.split('*'))}$"

    def matches(self, name: str) -> bool:
        """Whether a module of this full name is meant."""
        return re.match(self.pattern, name) is not None


class Sensitivity(BaseModel):
    """More bits where fewer hurt most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keep_bits: Literal[3, 4, 8] = Field(
        default=8, description="bits of the matrices that are kept better than the rest"
    )
    budget: float = Field(
        default=0.05,
        gt=0,
        description="bytes that they may take more; below 1: a share of the quantized matrices",
    )

    def bytes_of(self, quantized: int) -> int:
        """The budget in bytes, for matrices that take so many."""
        return int(self.budget * quantized if self.budget < 1 else self.budget)


def parsed_rule(text: str) -> dict[str, Any]:
    """The rule behind `PATTERN=BITS`, `PATTERN=BITS:GROUP` or `PATTERN=skip` of the command line, unchecked.

    Raises:
        UsageError: it is written otherwise.
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
    """The rule that counts for a module; None if no rule is about it."""
    return next((rule for rule in rules if rule.matches(name)), None)


def check_rules(rules: Iterable[Rule], names: Iterable[str]) -> None:
    """Stop at rules that are about nothing: most often a slip in the name.

    Raises:
        UsageError: naming all such rules, and names that are near.
    """
    known = list(names)
    idle = [rule.match for rule in rules if not any(rule.matches(name) for name in known)]
    if idle:
        near = [
            name
            for match in idle
            for name in difflib.get_close_matches(match.removeprefix(REGEX), known, n=3, cutoff=0.3)
        ]
        raise UsageError(
            f"no quantized layer matches the rule{'s' if len(idle) > 1 else ''} {', '.join(f'`{match}`' for match in idle)}",
            f"near names: {', '.join(near or known[:3])}",
        )


def stored_bytes(shape: tuple[int, int], scheme: Scheme | None) -> int:
    """Bytes of a matrix with its scales; of one in floating point (None) in half precision."""
    outputs, width = shape
    if scheme is None:
        return 2 * outputs * width
    return outputs * width * scheme.bits // 8 + 2 * outputs * (width // scheme.group(width))
