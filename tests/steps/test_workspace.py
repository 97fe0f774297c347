"""Work in progress: kept for the same step, removed for another, and never shared by two runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgewright.errors import EdgewrightError
from edgewright.steps.workspace import differences, remove_workspace, workspace


def interrupt(out: Path, depends_on: dict[str, Any], **settings: Any) -> set[str]:
    """Start a step that is interrupted after one finished file; the files that were there."""
    with (
        pytest.raises(KeyboardInterrupt),
        workspace(out, "work", depends_on, "*.done", **settings) as folder,
    ):
        found = {path.name for path in folder.glob("*.done")}
        (folder / f"{len(found)}.done").write_text("finished")
        raise KeyboardInterrupt
    return found


def test_the_same_step_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert interrupt(out, {"a": 1}) == set()
    assert interrupt(out, {"a": 1}) == {"0.done"}
    assert (tmp_path / ".out.work" / "1.done").is_file()
    with workspace(out, "work", {"a": 1}, "*.done") as folder:
        assert len(list(folder.glob("*.done"))) == 2
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().err


def test_another_step_starts_from_nothing_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    interrupt(out, {"a": 1, "b": {"c": 2}})
    assert interrupt(out, {"a": 1, "b": {"c": 3}}) == set()
    assert "started afresh: b.c changed" in " ".join(capsys.readouterr().err.split())


def test_nothing_is_reused_when_fresh_or_when_dependencies_are_unknown(tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupt(out, {"a": 1})
    assert interrupt(out, {"a": 1}, fresh=True) == set()
    interrupt(out, {})
    assert interrupt(out, {}) == set()


def test_a_step_that_finished_nothing_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        workspace(tmp_path / "out", "work", {"a": 1}, "*.done") as folder,
    ):
        (folder / "half.tmp").write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_one_run_per_workspace(tmp_path: Path) -> None:
    mine, other = (workspace(tmp_path / "out", "journal", {"a": 1}, "*.x") for _ in range(2))
    with mine, pytest.raises(EdgewrightError, match="another edgewright run"), other:
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


def test_fields_that_differ_are_named() -> None:
    assert differences(
        {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 0}
    ) == ["b.c", "e"]


def test_a_workspace_that_was_half_removed_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while the finished step removes its files leaves some of them, but no record."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_args, **_options: None)
    with workspace(tmp_path / "out", "learning", {"a": 1}, "*.bin") as folder:
        (folder / "half.bin").touch()
    monkeypatch.undo()
    assert (folder / "half.bin").exists()
    with workspace(tmp_path / "out", "learning", {"a": 1}, "*.bin") as folder:
        assert not (folder / "half.bin").exists()
    assert not folder.exists()


def test_what_a_killed_command_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), workspace(out, "work", {"a": 1}, "part") as place:
        (place / "part").touch()
        raise KeyboardInterrupt
    assert (tmp_path / ".out.work").is_dir()
    remove_workspace(out, "work")
    assert not list(tmp_path.iterdir())
    remove_workspace(out, "work")
