"""The versions of one artifact on a device: their directories, and which one is in use.

REMOTE_DIR/NAME/incoming/ID     a bundle that is being copied
REMOTE_DIR/NAME/versions/ID     a complete bundle with verified checksums
REMOTE_DIR/NAME/current         link to the version in use
REMOTE_DIR/NAME/previous        link to the version before it, for --rollback
REMOTE_DIR/NAME/rejected/ID     the last version that was rejected, if it was to be kept
REMOTE_DIR/NAME/trash           what is being deleted

Each change is one script that runs on the device under a lock of this artifact. So a broken
connection cannot stop it halfway, and two deployments cannot mix. Power can fail between two
commands: they are in an order in which `current` always is the link to a complete version.
Directories are deleted after a rename to `trash`, so none of the others is ever incomplete.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

from ..errors import UsageError
from .remote import Device

__all__ = ["RemoteVersions"]

Link = Literal["current", "previous"]
ID = re.compile(r"[0-9a-f]{16}")
LOCK_SECONDS = 60

PRELUDE = f"""set -eu
mkdir -p -- "$1"
cd -- "$1"
version=$2
exec 9>.lock
if command -v flock >/dev/null && ! flock -w {LOCK_SECONDS} 9; then
    echo 'another deployment of this artifact is changing its versions' >&2
    exit 1
fi
require() {{
    if [ ! -f "versions/$1/bundle.json" ]; then
        echo "version $1 is not there; did another deployment remove it?" >&2
        exit 1
    fi
}}
point() {{
    ln -sfn -- "versions/$2" "$1.new"
    mv -fT -- "$1.new" "$1"
}}
linked() {{
    if [ -L "$1" ]; then readlink -- "$1"; fi
}}
discard() {{
    mkdir -p trash
    mv -- "$1" "$(mktemp -d trash/XXXXXX)/"
}}
tidy() {{
    current=$(linked current)
    previous=$(linked previous)
    for folder in incoming/* versions/*; do
        case $folder in
            "incoming/$version" | "versions/$version" | "$current" | "$previous") ;;
            */{"[0-9a-f]" * 16}) discard "$folder" ;;
        esac
    done
    rm -rf -- trash
    rmdir incoming 2>/dev/null || :
}}
"""
PREPARE = """tidy
mkdir -p -- "incoming/$version"
"""
DISCARD = """discard "incoming/$version"
"""
STORE = """if [ -d "incoming/$version" ]; then
    sync -f -- "incoming/$version"
    mkdir -p versions
    if [ -e "versions/$version" ]; then discard "versions/$version"; fi
    mv -T -- "incoming/$version" "versions/$version"
fi
require "$version"
"""
REJECT = """case "versions/$version" in
    "$(linked current)" | "$(linked previous)") exit 0 ;;
esac
if [ -d "versions/$version" ]; then discard "versions/$version"; fi
tidy
"""
SET_ASIDE = f"""case "versions/$version" in
    "$(linked current)" | "$(linked previous)") exit 0 ;;
esac
mkdir -p rejected
for folder in rejected/*; do
    case $folder in
        "rejected/$version") ;;
        */{"[0-9a-f]" * 16}) discard "$folder" ;;
    esac
done
if [ -d "versions/$version" ]; then
    if [ -e "rejected/$version" ]; then discard "rejected/$version"; fi
    mv -T -- "versions/$version" "rejected/$version"
fi
tidy
"""
ACTIVATE = """require "$version"
before=$(linked current)
if [ "$before" != "versions/$version" ]; then
    if [ -f "$before/bundle.json" ]; then point previous "${before#versions/}"; fi
    sync -f -- "versions/$version"
    point current "$version"
fi
tidy
"""
SWAP = """require "$version"
point current "$version"
point previous "$3"
"""


class RemoteVersions:
    """Paths and links of one artifact on a device.

    Args:
        remote_dir: the directory for all artifacts on the device.
        name: name of the artifact.

    Raises:
        UsageError: the directory has a character that a program on the device would misread.
    """

    def __init__(self, remote_dir: str, name: str) -> None:
        if not remote_dir.isprintable() or ":" in remote_dir or remote_dir.startswith("~"):
            raise UsageError(
                f"--remote-dir {remote_dir!r}: a colon, a control character, or ~ at the beginning",
                "give another directory; a relative one is in the home directory",
            )
        # The `./` keeps a name with a dash in front from being read as an option.
        self.root = f"./{PurePosixPath(remote_dir, name)}"
        if PurePosixPath(remote_dir).is_absolute():
            self.root = self.root[2:]

    def incoming(self, version: str) -> str:
        """Where a version is while it is being copied."""
        return f"{self.root}/incoming/{version}"

    def version(self, version: str) -> str:
        """Where a complete version is."""
        return f"{self.root}/versions/{version}"

    async def has(self, device: Device, version: str) -> bool:
        """Whether a copy of a version is in `versions`."""
        done = await device.run("test", "-f", f"{self.version(version)}/bundle.json")
        return done.code == 0

    async def linked(self, device: Device, which: Link) -> str:
        """The id of the version that a link points to; empty if there is no such version."""
        done = await device.run("readlink", "--", f"{self.root}/{which}")
        folder, _, version = done.out.rstrip("\n").rpartition("/")
        known = done.code == 0 and folder == "versions" and bool(ID.fullmatch(version))
        return version if known and await self.has(device, version) else ""

    async def prepare(self, device: Device, version: str) -> None:
        """Make the directory to copy to, and delete what unfinished deployments have left."""
        await self._change(device, PREPARE, version)

    async def discard(self, device: Device, version: str) -> None:
        """Delete the copy of a version that is being made."""
        await self._change(device, DISCARD, version)

    async def store(self, device: Device, version: str) -> None:
        """Move a version that has been copied and verified to its final directory."""
        await self._change(device, STORE, version)

    async def activate(self, device: Device, version: str) -> None:
        """Make a version the current one, and the current one the previous one.

        All versions but these two are deleted.
        """
        await self._change(device, ACTIVATE, version)

    async def reject(self, device: Device, version: str, *, keep: bool) -> None:
        """Delete a version, or keep it in `rejected`, unless a link points to it."""
        await self._change(device, SET_ASIDE if keep else REJECT, version)

    async def swap(self, device: Device, current: str, previous: str) -> None:
        """Point the two links to these versions. Doing it again changes nothing."""
        await self._change(device, SWAP, current, previous)

    async def _change(self, device: Device, script: str, *versions: str) -> None:
        assert all(map(ID.fullmatch, versions))
        done = await device.run("sh", "-c", PRELUDE + script, "sh", self.root, *versions)
        if done.code:
            raise device.failed(f"installing in {self.root}", done)
