"""The readers of the campaign: how a valid file looks, and which function reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from .data_readers import data_readers
from .http_readers import http_readers
from .log_readers import log_readers
from .model_readers import model_readers
from .text_readers import text_readers

__all__ = ["FileReader", "all_readers"]


@dataclass(frozen=True)
class FileReader:
    """A reader of files.

    Attributes:
        name: in the table.
        files: makes the content of each file of a case, by name.
        use: reads them as a verb would, given the folder.
        weight: its share of all cases.
        prepare: makes what all cases need, before they are watched.
    """

    name: str
    files: st.SearchStrategy[dict[str, bytes]]
    use: Callable[[Path], Any]
    weight: int = 10
    prepare: Callable[[], None] = lambda: None

    def cases(self) -> st.SearchStrategy[dict[str, bytes]]:
        """See `campaign.Reader`."""
        return self.files

    def read(self, folder: Path, case: dict[str, bytes]) -> None:
        """See `campaign.Reader`."""
        for name, content in case.items():
            (folder / name).write_bytes(content)
        self.use(folder)


def all_readers(work: Path) -> list[FileReader]:
    """Every reader.

    Args:
        work: a folder for valid files that are made once.
    """
    work.mkdir(parents=True, exist_ok=True)
    made = [
        *text_readers(),
        *model_readers(work),
        *data_readers(work),
        *log_readers(),
        *http_readers(work),
    ]
    return [FileReader(*one) for one in made]
