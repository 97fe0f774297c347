"""API keys: who may use the server. A key is never printed, and never part of a command line."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable
from pathlib import Path

from ...errors import UsageError

__all__ = ["VARIABLE", "Keys", "read_keys"]

VARIABLE = "EDGEWRIGHT_API_KEY"
SHORTEST = 16
LARGEST_FILE = 2**16


class Keys:
    """The keys that the server accepts; without any, it accepts every request."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: bytes) -> int | None:
        """The number of the key in an `Authorization` header; None if it may not pass.

        All keys are compared, by digests of equal length and in constant time, so that the time
        tells nothing about them.
        """
        scheme, _, key = authorization.partition(b" ")
        given = _digest(key.strip())
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not self:
            return 0
        return known.index(True) if scheme.lower() == b"bearer" and any(known) else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_keys(file: Path | None) -> Keys:
    """The keys of a file, one a line, or the one in the environment if there is no file.

    Raises:
        UsageError: the file cannot be read, there is both a file and a variable, or a key is too
            short or cannot be sent in a header.
    """
    variable = os.environ.get(VARIABLE, "").strip()
    if file is None:
        return Keys([_checked(variable, VARIABLE)] if variable else [])
    if variable:
        raise UsageError(
            f"there are API keys in {file} and in {VARIABLE}",
            f"leave out --api-key-file, or unset {VARIABLE}",
        )
    keys = [_checked(line, str(file)) for line in _lines(file)]
    if not keys:
        raise UsageError(
            f"{file}: there is no API key in it", "write one key a line: openssl rand -hex 32"
        )
    return Keys(keys)


def _lines(file: Path) -> list[str]:
    """The lines of a key file that are not empty, without the space around them."""
    try:
        with file.open("rb") as stream:
            data = stream.read(LARGEST_FILE + 1)
        text = data.decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise UsageError(
            f"{file}: the API keys cannot be read: {reason}", "give a text file with one key a line"
        ) from error
    if len(data) > LARGEST_FILE:
        raise UsageError(f"{file}: too large for a file of keys", "give one key a line")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _checked(key: str, place: str) -> str:
    printable = key.isascii() and key.isprintable() and " " not in key
    if len(key) < SHORTEST or not printable:
        raise UsageError(
            f"{place}: a key needs at least {SHORTEST} printable ASCII characters without spaces",
            "make one with: openssl rand -hex 32",
        )
    return key
