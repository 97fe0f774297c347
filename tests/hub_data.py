"""Data sets in the form of the hub, as local directories; and a hub that consists of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgewright.data.hub import open_hub

SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
Rows = Callable[[str, str], Sequence[Mapping[str, Any]]]


def text_rows(config: str, split: str) -> Sequence[Mapping[str, Any]]:
    """Three rows that name their place."""
    return [{"text": f"{config} {split} {n}", "chat": SAID, "n": n} for n in range(3)]


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file with these rows."""
    datasets: Any = pytest.importorskip("datasets", reason="needs the extra `data`")
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_list(list(rows)).to_parquet(str(file))
    return file


def write(
    folder: Path, configs: tuple[str, ...], splits: tuple[str, ...], rows: Rows = text_rows
) -> str:
    """A data set with these configurations and splits, which `datasets` writes and reads."""
    lines = ["---", "configs:"]
    for config in configs:
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            write_rows(folder / config / f"{split}.parquet", rows(config, split))
            lines.append(f"  - {{split: {split}, path: {config}/{split}.parquet}}")
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(folder)


class StubHub:
    """The package datasets, where the names of the hub are those of local directories."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        self._datasets: Any = pytest.importorskip("datasets", reason="needs the extra `data`")
        self._folders = folders

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(self._datasets, name)
        return lambda data, *more, **options: function(self._folders[data], *more, **options)


def stub_hub(monkeypatch: pytest.MonkeyPatch, folders: Mapping[str, str]) -> None:
    """Let `hf:NAME` read the directory of that name."""
    hub = StubHub(folders)
    monkeypatch.setattr("edgewright.data.hub.require_datasets", lambda: hub)
    open_hub.cache_clear()
