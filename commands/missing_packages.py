"""Which extra of edgewright brings a package that is not installed."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires

from ..errors import EdgewrightError

__all__ = ["extra_with", "missing_package"]

PACKAGE = "edgewright"
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+).*;.*extra\s*==\s*[\"']([^\"']+)[\"']")
"""An optional requirement in a package's metadata: its name, and the extra that brings it."""
DEVELOPMENT = "dev"
"""The extra for work on edgewright itself; no user is sent there."""


def missing_package(error: ImportError) -> EdgewrightError | None:
    """The error for an optional package that a verb needs; None: it is not one of ours."""
    module = (error.name or "").partition(".")[0]
    extra = extra_with(module)
    if not isinstance(error, ModuleNotFoundError) or extra is None:
        return None
    return EdgewrightError(
        f"this needs the package {module}, which is not installed",
        f"pip install '{PACKAGE}[{extra}]'",
    )


def extra_with(module: str) -> str | None:
    """The first extra that brings a package, by the package's own metadata; None: no extra does."""
    wanted = _normal(module)
    try:
        listed = requires(PACKAGE) or []
    except PackageNotFoundError:  # edgewright runs from a directory and is not installed
        return None
    for line in listed:
        found = REQUIREMENT.match(line)
        if found and found[2] != DEVELOPMENT and _normal(found[1]) == wanted:
            return found[2]
    return None


def _normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
