"""What all objects that a client sends have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["Fields"]


class Fields(BaseModel):
    """An object of a request. A field that is not known is refused by name."""

    model_config = ConfigDict(extra="forbid")
