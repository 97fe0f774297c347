"""The versions of one artifact on a device: their directories, and which one is in use.

REMOTE_DIR/NAME/incoming/ID     a bundle that is being copied
REMOTE_DIR/NAME/versions/ID     a complete bundle with verified checksums
REMOTE_DIR/NAME/current         link to the version in use
REMOTE_DIR/NAME/previous        link to the version before it, for --rollback
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from .remote import Device

__all__ = ["RemoteVersions"]

Link = Literal["current", "previous"]


class RemoteVersions:
    """Paths and links of one artifact on a device.

    Args:
        remote_dir: the directory for all artifacts on the device.
        name: name of the artifact.
    """

    def __init__(self, remote_dir: str, name: str) -> None:
        self.root = PurePosixPath(remote_dir) / name

    def incoming(self, version: str) -> str:
        """Where a version is while it is being copied."""
        return str(self.root / "incoming" / version)

    def version(self, version: str) -> str:
        """Where a complete version is."""
        return str(self.root / "versions" / version)

    def link(self, which: Link) -> str:
        """The path of a link."""
        return str(self.root / which)

    async def has(self, device: Device, version: str) -> bool:
        """Whether a complete copy of a version is on the device."""
        done = await device.run("test", "-f", f"{self.version(version)}/bundle.json")
        return done.code == 0

    async def complete(self, device: Device, version: str) -> None:
        """Move a version that has been copied to its final directory."""
        await device.checked("mkdir", "-p", "--", str(self.root / "versions"))
        await device.checked("mv", "-T", "--", self.incoming(version), self.version(version))

    async def linked(self, device: Device, which: Link) -> str:
        """The id of the version that a link points to, or an empty string."""
        done = await device.run("readlink", "--", self.link(which))
        return PurePosixPath(done.out.strip()).name if done.code == 0 else ""

    async def point(self, device: Device, which: Link, version: str) -> None:
        """Make a link point to a version. The change is atomic."""
        link = self.link(which)
        await device.checked("ln", "-sfn", "--", f"versions/{version}", f"{link}.new")
        await device.checked("mv", "-T", "--", f"{link}.new", link)

    async def activate(self, device: Device, version: str) -> None:
        """Make a version the current one, and the current one the previous one."""
        current = await self.linked(device, "current")
        if current != version:
            if current:
                await self.point(device, "previous", current)
            await self.point(device, "current", version)

    async def remove_others(self, device: Device, version: str) -> None:
        """Delete unfinished copies, and all versions but this one and the previous one."""
        keep = {version, await self.linked(device, "previous")}
        there = (await device.checked("ls", "-1", "--", str(self.root / "versions"))).split()
        old = [self.version(name) for name in there if name not in keep]
        await device.checked("rm", "-rf", "--", str(self.root / "incoming"), *old)
