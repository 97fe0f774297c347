"""The files of an artifact that a bundle takes along, and the artifact's name on a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import UsageError

__all__ = ["artifact_files", "artifact_name"]

NAME_BYTES = 200
COPY = "copy the artifact with the files that its links point to: cp -rL ARTIFACT COPY"
RENAME = "rename it: the name becomes part of paths and commands on the device"


def artifact_name(artifact: Path) -> str:
    """The name of an artifact on a device: that of its directory, also behind a link.

    Raises:
        UsageError: the directory has no name that a directory on the device can have.
    """
    name = artifact.resolve().name
    if not name or ":" in name or name.startswith(".") or not _is_plain(name):
        raise UsageError(
            f"{artifact}: cannot be deployed under the name {name!r}",
            f"{RENAME}; a colon, a leading dot and control characters are not allowed",
        )
    return name


def _is_plain(name: str) -> bool:
    """Whether a name is valid UTF-8 without control characters and of moderate length."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return name.isprintable() and size <= NAME_BYTES


def artifact_files(artifact: Path) -> dict[str, Path]:
    """All files below an artifact, by their path in it.

    A link counts as the file that it points to, if that file is in the artifact too.

    Raises:
        UsageError: a link points outside, or to a directory, or to nothing; something is no file;
            or a name has a control character.
    """
    found: dict[str, Path] = {}
    root = artifact.resolve()
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        for name in sorted([*folders, *names]):
            file = Path(folder, name)
            within = file.relative_to(root)
            if not _is_plain(name):
                raise UsageError(f"{artifact}: {name!r} in it cannot be copied", RENAME)
            if file.is_symlink():
                _check_link(artifact, root, file)
            if name not in folders:
                _check_kind(file)
                found[within.as_posix()] = artifact / within
    return dict(sorted(found.items()))


def _unreadable(error: OSError) -> None:
    raise UsageError(f"{error.filename}: {error.strerror}", "make the artifact readable")


def _check_link(artifact: Path, root: Path, link: Path) -> None:
    target = os.readlink(link)
    where = f"{artifact}: the link {link.relative_to(root)} points to {target}"
    if not Path(os.path.realpath(link)).is_relative_to(root):  # `resolve` refuses a loop of links
        raise UsageError(f"{where}, which is outside of the artifact", COPY)
    if not link.is_file():
        raise UsageError(f"{where}, which is no file", COPY)


def _check_kind(file: Path) -> None:
    if not stat.S_ISREG(file.stat().st_mode):
        raise UsageError(f"{file}: neither a file nor a directory", "remove it from the artifact")
