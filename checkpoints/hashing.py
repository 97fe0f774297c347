"""Hashes of the files in a directory, the bytes of its weights, and its provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .inventory import INDEX, WEIGHTS, weight_files
from .own_files import CARD, PROVENANCE
from .sealed import Damaged, read_sealed, write_sealed

__all__ = [
    "CARD",
    "PROVENANCE",
    "content_hash",
    "file_hash",
    "read_provenance",
    "weight_bytes",
    "write_provenance",
]

WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".data", ".gguf", ".engine")


def read_provenance(
    path: Path, needed: tuple[str, ...] = (), *, older: bool = True
) -> dict[str, Any]:
    """The content of `edgewright.json`; empty if edgewright did not write the directory.

    Args:
        path: the directory.
        needed: entries that it must have.
        older: accept what a version of edgewright wrote that recorded no checksum.

    Raises:
        Damaged: it is damaged, was edited, or lacks an entry.
    """
    file = path / PROVENANCE
    hint = f"restore it, or make {path.name} again with --fresh"
    found = read_sealed(file, hint, older=older) if file.exists() else {}
    if missing := [name for name in needed if name not in found]:
        raise Damaged(file, f"it has no `{missing[0]}`", hint)
    return found


def write_provenance(path: Path, value: Mapping[str, Any]) -> None:
    """Write the `edgewright.json` of a directory."""
    write_sealed(path / PROVENANCE, value)


def content_hash(path: Path, skip: str = "") -> str:
    """sha256 over names and bytes of all files below a directory but `skip` and the model card."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in (skip, CARD))
    for file in files:
        digest.update(
            file.relative_to(path).as_posix().encode() + b"\0" + bytes.fromhex(file_hash(file))
        )
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weight_bytes(path: Path) -> int:
    """Bytes of the weights in a directory: a checkpoint's own files, or all of an artifact's.

    Raises:
        UsageError: files that the index of a checkpoint names are missing.
    """
    if (path / WEIGHTS).is_file() or (path / INDEX).is_file():
        return sum(file.stat().st_size for file in weight_files(path))
    files = (p for p in path.rglob("*") if p.is_file() and p.suffix in WEIGHT_SUFFIXES)
    return sum(file.stat().st_size for file in files)
