"""What a file system refuses is one message, whatever library reports it."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from file_limits import files_of_at_most
from safetensors.torch import save_file

from edgewright.checkpoints import disk
from edgewright.checkpoints.atomic_files import copy_file, write_json, write_text
from edgewright.checkpoints.config import read_config
from edgewright.checkpoints.directories import atomic_directory
from edgewright.checkpoints.disk import disk_error, refusal_of, require_space, writing
from edgewright.checkpoints.tensors import read_state
from edgewright.checkpoints.writer import write_checkpoint
from edgewright.errors import EdgewrightError, NoSpace, NotWritten, UsageError

MakeModel = Callable[..., Path]


def _sqlite(file: Path) -> None:
    connection = sqlite3.connect(file)
    try:
        connection.execute("create table a (b)")
        connection.execute("insert into a values (?)", ("x" * 100_000,))
        connection.commit()
    finally:
        connection.close()


WRITERS: dict[str, Callable[[Path], Any]] = {
    "python": lambda file: file.write_bytes(bytes(100_000)),
    "text": lambda file: file.write_text("x" * 100_000),
    "numpy": lambda file: np.zeros(100_000, np.uint8).tofile(file),
    "torch": lambda file: torch.save({"a": torch.zeros(100_000)}, file),
    "safetensors": lambda file: save_file({"a": torch.zeros(100_000)}, file),
    "fallocate": lambda file: os.posix_fallocate(os.open(file, os.O_CREAT | os.O_RDWR), 0, 100_000),
    "sqlite": _sqlite,
}
"""Every way in which a file is written."""


@pytest.mark.parametrize("writer", WRITERS)
def test_every_library_that_cannot_write(writer: str, tmp_path: Path) -> None:
    file = tmp_path / "out"
    with pytest.raises(NotWritten) as caught, files_of_at_most(4096), writing(file, 100_000):
        WRITERS[writer](file)
    assert str(caught.value).startswith(f"{file}: could not be written: ")
    assert caught.value.hint
    if writer != "sqlite":  # which says only "disk I/O error"
        assert caught.value.exit_code == 3
        assert "(100.0 kB needed, " in str(caught.value)
        assert str(caught.value).endswith(" free)")


@pytest.mark.parametrize(
    ("number", "code", "advice"),
    [
        (errno.ENOSPC, 3, "free disk space"),
        (errno.EDQUOT, 3, "quota"),
        (errno.EFBIG, 3, "ulimit -f"),
        (errno.EROFS, 1, "can be written"),
        (errno.EACCES, 1, "permissions"),
        (errno.EPERM, 1, "permissions"),
        (errno.EMFILE, 1, "ulimit -n"),
        (errno.ENFILE, 1, "close other programs"),
        (errno.EIO, 1, "failing"),
        (errno.ENOTDIR, 1, "another place"),
    ],
)
def test_each_reason_has_a_sentence(number: int, code: int, advice: str, tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match=os.strerror(number)) as caught, writing(tmp_path / "a"):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == code
    assert advice in caught.value.hint


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Error while serializing: I/O error: No space left (os error 28)", errno.ENOSPC),
        ("(sqlite3.OperationalError) database or disk is full", errno.ENOSPC),
        ("attempt to write a readonly database", errno.EROFS),
        ("PytorchStreamWriter failed writing file data/0: file write failed", -1),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", -1),
        ("65536 requested and 26272 written", -1),
        ("65536 requested and 65536 needed", None),
        ("Error while deserializing header (os error 2)", None),
        ("[('a', 'b', \"[Errno 27] File too large: 'a' -> 'b'\")]", errno.EFBIG),
    ],
)
def test_reasons_in_the_text_of_an_error(text: str, number: int | None) -> None:
    assert refusal_of(RuntimeError(text)) == number
    outer = ValueError("a library's own")
    outer.__cause__ = RuntimeError(text)
    assert refusal_of(outer) == number


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), writing(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(UsageError, match="mine"), writing(tmp_path):
        raise UsageError("mine")


def test_the_outer_place_is_named_only_for_temporary_names(tmp_path: Path) -> None:
    def refused(block: AbstractContextManager[Any], inner: Path) -> str:
        with pytest.raises(NoSpace) as caught, block, writing(inner, 5):
            raise OSError(errno.ENOSPC, "full")
        return str(caught.value).partition(":")[0]

    inner = tmp_path / "inner"
    assert refused(writing(tmp_path), inner) == str(inner)
    assert refused(writing(tmp_path, whole=True), inner) == str(tmp_path)
    assert refused(atomic_directory(tmp_path / "out"), inner) == str(tmp_path / "out")


def test_too_little_room_is_known_before_the_work(tmp_path: Path) -> None:
    require_space(tmp_path / "not" / "there", 1000)
    with pytest.raises(NoSpace, match=r"1000000000\.0 GB needed for a map, .* free\)") as caught:
        require_space(tmp_path / "map", 1e18, "a map")
    assert caught.value.exit_code == 3
    with pytest.raises(NoSpace, match="needed"), atomic_directory(tmp_path / "out", 1e18):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [write_text, write_json])
def test_a_small_file_that_does_not_fit_leaves_the_old_one(
    write: Callable[[Path, Any], None], tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    write(file, "old")
    before = file.read_bytes()
    with pytest.raises(NoSpace, match=r"a\.json") as caught, files_of_at_most(4096):
        write(file, "x" * 10_000)
    assert "10.0 kB needed" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert file.read_bytes() == before


def test_a_checkpoint_that_does_not_fit(make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model("llama")
    state = read_state(source)
    needed = sum(tensor.nbytes for tensor in state.values())
    with pytest.raises(NoSpace, match="File too large") as caught, files_of_at_most(100_000):
        write_checkpoint(tmp_path / "out", state, read_config(source), source, {})
    assert f"{needed / 1e6:.1f} MB needed" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_place_is_said_to_be_unknown() -> None:
    error = disk_error(None, OSError(errno.ENOSPC, "full"))
    assert "temporary files" in str(error)
    assert isinstance(error, EdgewrightError)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match="File name too long"):
        write_json(tmp_path / ("a" * 300), {})
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == "[]"


def test_an_estimate_refuses_only_what_cannot_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 600)
    require_space(tmp_path, 1000, least=0.5)
    with pytest.raises(NoSpace, match=r"2\.0 kB needed, 600 bytes free"):
        require_space(tmp_path, 2000, least=0.5)


def test_a_copy_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(10_000))
    with pytest.raises(NoSpace, match=r"10\.0 kB needed"), files_of_at_most(4096):
        copy_file(source, tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    copy_file(source, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
