"""The files that a program may read: Python's own and the system's libraries."""

from __future__ import annotations

import os
import sys

__all__ = ["DEVICES", "LINKER_CACHE", "links_and_folders", "readable_folders"]

LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
LINKER_CACHE = "/etc/ld.so.cache"
"""Where the linker finds libraries in other folders, such as libpython in /usr/local/lib."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def _folders() -> list[str]:
    prefixes = dict.fromkeys((sys.base_prefix, sys.base_exec_prefix))
    own = [os.path.join(prefix, name) for prefix in prefixes for name in ("lib", "lib64")]
    return [os.path.dirname(os.__file__), *own, *LIBRARIES]


def readable_folders() -> list[str]:
    """Real paths of the folders, none inside another, without packages that were installed."""
    found = dict.fromkeys(os.path.realpath(folder) for folder in _folders())
    return [
        folder
        for folder in found
        if os.path.isdir(folder)
        and not any(folder.startswith(f"{other}/") for other in found if other != folder)
    ]


def links_and_folders() -> list[tuple[str, str]]:
    """What a new root needs: (path, the target of a link, or nothing for a folder)."""
    links = [(path, os.readlink(path)) for path in LIBRARIES if os.path.islink(path)]
    return [(folder, "") for folder in readable_folders()] + links
