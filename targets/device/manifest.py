"""Read a bundle's manifest on the device, and verify the files of the bundle against it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError

__all__ = ["MANIFEST", "identity", "read_manifest", "sha256", "verify"]

MANIFEST = "bundle.json"
ID_DIGITS = 16
BLOCK = 1 << 20


def read_manifest(bundle: Path) -> dict[str, Any]:
    """The contents of `bundle.json`.

    Raises:
        EdgewrightError: it is damaged: its id is a hash of everything else in it.
    """
    file = bundle / MANIFEST
    try:
        manifest = json.loads(file.read_text())
        if manifest["id"] == identity(manifest):
            return manifest
        reason = "its id is not that of its content"
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        reason = str(error)
    raise EdgewrightError(f"{file}: damaged: {reason}", "deploy the bundle again")


def identity(manifest: dict[str, Any]) -> str:
    """The id of a bundle: a hash of its manifest, which has the checksums of all files."""
    content = {key: value for key, value in manifest.items() if key != "id"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:ID_DIGITS]


def verify(bundle: Path) -> dict[str, Any]:
    """Compare every file of a bundle with its checksum.

    Returns:
        `files`, the number of files, and `bytes`, their total size.

    Raises:
        EdgewrightError: a file is missing or damaged, or the manifest is.
    """
    manifest = read_manifest(bundle)
    files = manifest["files"]
    bad = [
        name
        for name, entry in files.items()
        if not _is_own(bundle / name) or sha256(bundle / name) != entry["sha256"]
    ]
    if bad:
        raise EdgewrightError(
            f"{bundle}: missing or damaged: {', '.join(sorted(bad))}", "deploy the bundle again"
        )
    return {"files": len(files), "bytes": sum(entry["size"] for entry in files.values())}


def _is_own(file: Path) -> bool:
    """Whether this is a file, and not a link to one that may change or be elsewhere."""
    return file.is_file() and not file.is_symlink()


def sha256(file: Path) -> str:
    """The sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:  # Python 3.10 has no hashlib.file_digest
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
