"""What is the same for every model of options. Imports no torch."""

from __future__ import annotations

from pydantic import ConfigDict

__all__ = ["STRICT"]

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
"""An unknown option is refused, and so is a number that is infinite or none (`.inf`, `nan`)."""
