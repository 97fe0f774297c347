"""Tells the address of a server from the name of a model. Imports nothing: all verbs ask it."""

from __future__ import annotations

__all__ = ["is_url"]


def is_url(text: str) -> bool:
    """Whether what `bench` is given is the address of a server."""
    return text.lower().startswith(("http://", "https://"))
