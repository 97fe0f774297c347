"""The baseline that a measured model is compared with."""

from __future__ import annotations

from pathlib import Path

from ..checkpoints.hashing import content_hash
from .tasks.backends import Backend, open_backend

__all__ = ["Reference"]


class Reference:
    """The baseline that later steps are compared with, loaded once and only when needed."""

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self.device = device
        self._backend: Backend | None = None
        self._identity = ""

    @property
    def backend(self) -> Backend:
        """The loaded model."""
        if self._backend is None:
            self._backend = open_backend(self.path, self.device)
        return self._backend

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory already."""
        return self._backend is not None

    def release(self) -> None:
        """Drop the loaded model; it is loaded again when it is needed."""
        self._backend = None

    @property
    def identity(self) -> str:
        """A short hash of the model's files."""
        self._identity = self._identity or content_hash(self.path)[:16]
        return self._identity
