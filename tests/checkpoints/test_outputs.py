"""Where commands may write: places that are apart from inputs, possible, and edgewright's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewright.checkpoints.directories import atomic_directory
from edgewright.checkpoints.hashing import PROVENANCE
from edgewright.checkpoints.outputs import Input, Kind, Output, check_own, check_places
from edgewright.checkpoints.own_files import check_output
from edgewright.errors import UsageError

DIRECTORIES: tuple[Kind, ...] = ("directory", "run", "sweep", "cache")
FILES: tuple[Kind, ...] = ("file", "traces", "record")


def refusal(path: Path, kind: Kind, *inputs: Path, marks: tuple[str, ...] = ()) -> str:
    """The message for an output; empty: it is accepted."""
    try:
        check_places([Output("--out", path, kind, marks)], [Input("MODEL", one) for one in inputs])
        check_own([Output("--out", path, kind, marks)])
    except UsageError as error:
        assert error.hint
        assert "\n" not in str(error)
        return str(error)
    return ""


def make(folder: Path, **files: str) -> Path:
    """A directory that edgewright made, with these files in it."""
    with atomic_directory(folder) as temporary:
        for name, text in files.items():
            (temporary / name).write_text(text)
        (temporary / PROVENANCE).write_text("{}")
    return folder


@pytest.mark.parametrize("kind", [*DIRECTORIES, *FILES])
def test_a_new_place_is_accepted(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert refusal(tmp_path / "out", kind, tmp_path / "model") == ""


OVERLAPS: dict[str, tuple[str, str, str]] = {
    "the same": ("model", "model", "is"),
    "by another name": ("model/../model", "model", "is"),
    "inside": ("model/new", "model", "lies inside"),
    "deep inside": ("model/a/b/new", "model", "lies inside"),
    "around": ("all", "all/model", "contains"),
    "through a link around": ("link/new", "model", "lies inside"),
    "of a linked input": ("model", "link", "is"),
    "inside a linked input": ("model/new", "link", "lies inside"),
    "around a file": ("all", "all/model/data.txt", "contains"),
    "where a file of an input is": ("blobs/new", "linked", ""),
    "a file of an input, by its link": ("blobs/weights", "linked", "is"),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in ("model", "all/model", "blobs", "linked"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "all" / "model" / "data.txt").write_text("text")
    (tmp_path / "link").symlink_to("model")
    (tmp_path / "blobs" / "weights").write_text("")
    (tmp_path / "linked" / "weights").symlink_to("../blobs/weights")
    return tmp_path


@pytest.mark.parametrize("kind", ["directory", "file", "traces"])
@pytest.mark.parametrize("name", OVERLAPS)
def test_an_output_is_apart_from_every_input(name: str, kind: Kind, tree: Path) -> None:
    out, source, word = OVERLAPS[name]
    (tree / "other").mkdir()
    found = refusal(tree / out, kind, tree / "other", tree / source)
    if kind == "directory" or word == "" or not (tree / out).is_dir():
        assert (word in found) if word else found == "", found
    else:
        assert found  # a file cannot be written there either


def test_two_outputs_are_apart(tmp_path: Path) -> None:
    for one, other in (("a", "a"), ("a", "a/cache"), ("a/b/c", "a")):
        with pytest.raises(UsageError, match="both are written"):
            check_places(
                [
                    Output("--out", tmp_path / one, "directory"),
                    Output("--teacher-cache", tmp_path / other, "cache"),
                ],
                [],
            )


IMPOSSIBLE: dict[str, tuple[str, str, tuple[Kind, ...]]] = {
    "the working directory": (".", "working directory", (*DIRECTORIES, *FILES)),
    "no name": ("", "working directory", (*DIRECTORIES, *FILES)),
    "above": ("..", "working directory", (*DIRECTORIES, *FILES)),
    "above by a way down": ("folder/..", "working directory", (*DIRECTORIES, *FILES)),
    "the root": ("/", "root", (*DIRECTORIES, *FILES)),
    "a link": ("link", "a link, to folder", (*DIRECTORIES, *FILES)),
    "a link to nowhere": ("dangling", "a link, to nowhere", (*DIRECTORIES, *FILES)),
    "a link to itself": ("loop", "a link", (*DIRECTORIES, *FILES)),
    "below a link to nowhere": ("dangling/out", "dangling", (*DIRECTORIES, *FILES)),
    "below a loop": ("loop/out", "loop", (*DIRECTORIES, *FILES)),
    "below a file": ("file/out", "file", (*DIRECTORIES, *FILES)),
    "a file": ("file", "not written by edgewright", DIRECTORIES),
    "a directory": ("folder", "a directory", FILES),
    "a pipe": ("pipe", "no regular file", FILES),
    "a device": ("/dev/null", "no regular file", FILES),
    "too long a name": ("n" * 250, "too long a name", (*DIRECTORIES, *FILES)),
    "too long a path": ("/".join(["n" * 200] * 30), "long", (*DIRECTORIES, *FILES)),
    "a null byte": ("a\0b", "null", (*DIRECTORIES, *FILES)),
    "a missing directory": ("no/such/file", "mkdir -p no/such", ("file",)),
    "unfinished work of another": (".out.tmp", "unfinished", (*DIRECTORIES, *FILES)),
    "a lock of another": (".out.lock", "unfinished", (*DIRECTORIES, *FILES)),
    "a mount point": ("/proc", "proc", ("directory",)),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_an_impossible_place_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    monkeypatch.chdir(work)
    (work / "link").symlink_to("folder")
    (work / "dangling").symlink_to("nowhere")
    (work / "loop").symlink_to("loop")
    (work / "file").write_text("mine")
    os.mkfifo(work / "pipe")
    before = sorted(work.rglob("*"))
    path, text, kinds = IMPOSSIBLE[name]
    for kind in kinds:
        with pytest.raises(UsageError) as caught:
            check_places([Output("--out", Path(path), kind)], [])
        assert text in f"{caught.value} {caught.value.hint}", kind
    assert sorted(work.rglob("*")) == before


def test_the_directory_that_the_shell_is_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "made", weights="1")
    monkeypatch.chdir(made)
    assert "working directory" in refusal(made, "directory")


@pytest.mark.parametrize("kind", [*DIRECTORIES, *FILES])
def test_a_directory_without_the_right_to_write(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may always write
    assert f"{tmp_path}, which is not writable" in refusal(tmp_path / "out", kind)


def test_a_complete_cache_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "teacher.json").write_text('{"shards": []}')
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refusal(tmp_path / "cache", "cache") == ""


def test_a_directory_of_edgewright_may_be_replaced_until_a_file_is_added(tmp_path: Path) -> None:
    made = make(tmp_path / "made", weights="1")
    assert json.loads((made / PROVENANCE).read_text())["written"] == ["weights"]
    (made / "README.md").write_text("the model card")
    check_output(made)
    make(made, weights="2")
    for name in ("notes.txt", "deep/notes.txt", ".hidden"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("years of work")
        assert f"holds {name}" in refusal(made, "directory")
        with pytest.raises(UsageError), atomic_directory(made):
            pytest.fail("the block must not run")
        assert (made / name).read_text() == "years of work"
        (made / name).unlink()
    (made / "link").symlink_to("weights")
    assert "holds link" in refusal(made, "directory")


@pytest.mark.parametrize("name", [".README.md.tmp", ".edgewright.json.tmp"])
def test_what_a_kill_leaves_of_card_and_record_is_replaced(name: str, tmp_path: Path) -> None:
    made = make(tmp_path / "made", weights="1")
    (made / name).write_text("half")
    assert refusal(made, "directory") == ""
    make(made, weights="2")
    assert not (made / name).exists()
    assert not list(tmp_path.glob("made.before*"))


@pytest.mark.parametrize("listed", [[], ["other"]])
def test_a_wrong_list_protects_all_files(listed: object, tmp_path: Path) -> None:
    made = make(tmp_path / "made", weights="1")
    (made / PROVENANCE).write_text(json.dumps({"written": listed}))
    assert "weights" in refusal(made, "directory")


@pytest.mark.parametrize("record", ["{}", '{"written": "weights"}', '{"written": ', ""])
def test_a_directory_without_a_list_is_set_aside(
    record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in ("", "1"):
        made = make(tmp_path / "made", weights=f"old{number}")
        (made / PROVENANCE).write_text(record)
        assert refusal(made, "directory") == ""
        make(made, weights="new")
        assert (made / "weights").read_text() == "new"
        assert (tmp_path / f"made.before{number}" / "weights").read_text() == f"old{number}"
        said = " ".join(capsys.readouterr().err.split())
        assert f"moved to {tmp_path}/made.before{number}" in said


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: (path / "thesis.tex").write_text("ten years"),
    "a hidden file": lambda path: (path / ".thesis.tex").write_text("ten years"),
    "a directory": lambda path: (path / "thesis").mkdir(),
    "another ledger": lambda path: (path / "ledger.json").write_text('{"rent": 900}'),
    "another database": lambda path: (path / "study.db").write_text("SQLite format 3"),
    "another index": lambda path: (path / "teacher.json").write_text('{"name": "Ms Smith"}'),
}


@pytest.mark.parametrize("kind", ["run", "sweep", "cache"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_directory_of_the_user_is_not_filled(name: str, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    FOREIGN[name](tmp_path / "mine")
    assert "holds" in refusal(tmp_path / "mine", kind)


@pytest.mark.parametrize("kind", ["run", "sweep", "report"])
@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_report_of_the_user_is_kept(name: str, kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"edgewright": "0.1"}')
    (tmp_path / "study.db").write_text("studies")
    assert refusal(tmp_path, kind) == ""
    (tmp_path / name).write_text("my own report")
    assert name in refusal(tmp_path, kind)


def test_a_file_is_replaced_only_if_it_carries_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "gate.md"
    file.touch()
    marks = ("### edgewright gate: ", "| verdict |")
    assert refusal(file, "file", marks=marks) == ""
    file.write_text("### edgewright gate: pass\n")
    assert "not written by edgewright" in refusal(file, "file", marks=marks)
    file.write_text("### edgewright gate: pass\n| verdict |\n")
    assert refusal(file, "file", marks=marks) == ""
