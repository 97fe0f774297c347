"""Commands that run Python in bubblewrap, the sandbox that Flatpak uses (`bwrap`)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .confined.namespaces import FOLDER_BYTES, PROGRAM_FOLDER
from .confined.places import DEVICES, LINKER_CACHE, links_and_folders

__all__ = ["bubblewrap_commands"]

ALWAYS = (
    "--die-with-parent",
    "--new-session",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
AS_ROOT = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
"""Root's programs get a user id of their own, for which they need these until they have it."""


def bubblewrap_commands(python: str, package: Path, seen_at: str) -> list[list[str]]:
    """The commands to put in front of Python's, the best first; none if `bwrap` is not installed.

    Args:
        python: the path of Python's executable.
        package: a folder that is to be readable too.
        seen_at: the folder in which the package is seen.
    """
    bwrap = shutil.which("bwrap")
    if not bwrap:
        return []
    inside = f"{seen_at}/{package.name}"
    paths = [inside, python, *(path for path, _ in links_and_folders()), *DEVICES, LINKER_CACHE]
    root: list[str] = []
    for folder in dict.fromkeys(parent for path in paths for parent in _parents(path)):
        root += ["--perms", "0755", "--dir", folder]
    root += ["--ro-bind", str(package), inside, "--ro-bind", python, python]
    for path, target in links_and_folders():
        root += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    for device in DEVICES:
        root += ["--dev-bind", device, device]
    root += ["--ro-bind-try", LINKER_CACHE, LINKER_CACHE]
    root += ["--perms", "1777", "--size", str(FOLDER_BYTES), "--tmpfs", PROGRAM_FOLDER]
    root += ["--remount-ro", "/", "--chdir", PROGRAM_FOLDER, "--"]
    as_user = [bwrap, *ALWAYS, "--unshare-user", *root]
    return [[bwrap, *ALWAYS, *AS_ROOT, *root], as_user] if os.geteuid() == 0 else [as_user]


def _parents(path: str) -> list[str]:
    """The folders above a path, from the top; bubblewrap would make them for root only."""
    return [str(parent) for parent in reversed(Path(path).parents)][1:]
