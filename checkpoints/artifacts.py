"""Tells exported models from checkpoints, by the file that a runtime reads."""

from __future__ import annotations

from pathlib import Path

from ..models.formats.gguf import MODEL as GGUF
from ..models.formats.onnx import MODEL as GRAPH

__all__ = ["is_artifact", "is_gguf", "is_graph"]


def is_graph(path: Path) -> bool:
    """Whether a directory is an exported ONNX model."""
    return (path / GRAPH).is_file()


def is_gguf(path: Path) -> bool:
    """Whether a directory is an exported GGUF."""
    return (path / GGUF).is_file()


def is_artifact(path: Path) -> bool:
    """Whether a directory is an exported model and not a checkpoint."""
    return is_graph(path) or is_gguf(path)
