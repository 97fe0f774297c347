"""A GGUF file that does not fit: numpy, which writes it, names no reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from file_limits import files_of_at_most

from edgewright.checkpoints import disk
from edgewright.errors import NoSpace
from edgewright.export.gguf.writer import export_gguf

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("limit", [0, 10_000, 600_000])
def test_a_file_that_does_not_fit(limit: int, make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model("llama")
    with (
        pytest.raises(NoSpace, match=r"out: could not be written: .* free\)"),
        files_of_at_most(limit),
    ):
        export_gguf(source, tmp_path / "out", "fp16")
    assert not list(tmp_path.iterdir())


def test_room_is_checked_before_the_file_is_written(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 100_000)
    with pytest.raises(NoSpace, match=r"MB needed, 100\.0 kB free"):
        export_gguf(make_model("llama"), tmp_path / "out", "fp16")
    assert not list(tmp_path.iterdir())
