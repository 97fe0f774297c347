"""Data sets of the Hugging Face hub, or local directories in their form, with the package datasets.

`hf:NAME[:CONFIG][:SPLIT][:FIELD]` leaves out any part but the name. What the other parts mean is
decided by what the data set has: its configurations, its splits, its columns.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..console import console
from ..errors import EdgewrightError, UsageError
from .kinds import KINDS

__all__ = ["TEST_SPLITS", "TRAIN_SPLITS", "HubData", "open_hub", "require_datasets"]

TRAIN_SPLITS = ("train",)
"""The split of text that is read if none is named."""
TEST_SPLITS = ("test", "validation")
"""The splits of problems that are read if none is named, the preferred one first."""


@dataclass(frozen=True)
class HubData:
    """One split of a data set.

    Attributes:
        name: of the data set.
        config: its configuration.
        split: name of the split.
        field: the column that was named; empty: none.
    """

    name: str
    config: str
    split: str
    field: str

    def __str__(self) -> str:
        """What is read, in words."""
        column = f", field {self.field}" if self.field else ""
        return f"{self.name}: configuration {self.config}, split {self.split}{column}"

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows, streamed.

        Raises:
            EdgewrightError: the hub cannot be reached, or a file is damaged.
        """
        datasets = require_datasets()
        try:
            rows = datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
            # Without decoding, nothing that an image or a sound names is opened.
            yield from rows.decode(False) if rows.features else rows
        except Exception as error:  # the hub, the file system and the package raise their own
            raise EdgewrightError(
                f"{self}: the rows cannot be read: {_reason(error)}",
                "check the network and the files, and run it again",
            ) from error

    def content_hash(self) -> str:
        """A hash of the split's files: their bytes, or on the hub their address with its commit."""
        builder = require_datasets().load_dataset_builder(self.name, self.config)
        digest = hashlib.sha256(f"{self.name}:{self.config}:{self.split}".encode())
        for file in (builder.config.data_files or {}).get(self.split, []):
            digest.update(_file_hash(file))
        return digest.hexdigest()


def require_datasets() -> Any:
    """Import the package datasets, which reads Parquet files and the hub.

    Raises:
        EdgewrightError: it is not installed.
    """
    try:
        datasets: Any = importlib.import_module("datasets")  # here, because it is an extra
    except ImportError as error:
        raise EdgewrightError(
            "parquet and hub data need the datasets package", "pip install 'edgewright[data]'"
        ) from error
    return datasets


@cache
def open_hub(name: str, rest: str, usual: Sequence[str] = TRAIN_SPLITS) -> HubData:
    """Find out which configuration, split and field `hf:NAME:REST` means, and print it.

    Args:
        name: of the data set, or a directory with one.
        rest: the parts after the name, with colons between them.
        usual: the splits to look for if none is named; else the only one is read.

    Raises:
        UsageError: there is no such data set, a part is none of what it has, or a part must be
            given.
        EdgewrightError: the hub cannot be reached, or the package datasets is not installed.
    """
    datasets = require_datasets()
    given = f"hf:{name}:{rest}".rstrip(":")
    parts = rest.split(":") if rest else []
    try:
        configs = datasets.get_dataset_config_names(name)
        default = datasets.get_dataset_default_config_name(name) or ""
        named = parts[0] if parts and parts[0] in configs else ""
        config = named or default or (configs[0] if len(configs) == 1 else "")
        splits = datasets.get_dataset_split_names(name, config) if config else []
    except Exception as error:  # the hub, the file system and the package raise their own
        kind = EdgewrightError if isinstance(error, ConnectionError) else UsageError
        raise kind(
            f"{given}: the data set cannot be opened: {_reason(error)}",
            "give the name of a public data set, a directory, or log in with `hf auth login`",
        ) from error
    if not config:
        raise UsageError(
            f"{given}: the data set has several configurations: {', '.join(configs)}",
            f"name one: hf:{name}:{configs[0]}",
        )
    parts = parts[1:] if named else parts
    split = parts.pop(0) if parts and parts[0] in splits else _default_split(given, splits, usual)
    field = parts.pop(0) if parts else ""
    found = HubData(name, config, split, field)
    columns = list(next(found.rows(), {})) if field else []
    if parts or field not in ("", *columns):
        raise UsageError(
            f"{given}: `{':'.join((field, *parts))}` is no part of the data set; configurations: "
            f"{_listed(configs)}; splits of {config}: {_listed(splits)}; fields: "
            f"{_listed(columns)}",
            f"write {KINDS['hf']}, in this order",
        )
    console.print(f"reading {found}", highlight=False, markup=False)
    return found


def _reason(error: Exception) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _file_hash(file: str) -> bytes:
    if not Path(file).is_file():
        return hashlib.sha256(file.encode()).digest()
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


def _default_split(given: str, splits: Sequence[str], usual: Sequence[str]) -> str:
    """The first usual split that there is, or the only split."""
    found = next((split for split in usual if split in splits), None)
    if found:
        return found
    if len(splits) == 1:
        return splits[0]
    raise UsageError(
        f"{given}: the data set has no split {' or '.join(usual)}, but {_listed(splits)}",
        f"name one: {given}:{splits[0]}" if splits else "give another data set",
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
