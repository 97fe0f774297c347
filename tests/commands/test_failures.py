"""Memory, threads and files that run out, and signals: one sentence and a documented exit code."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from edgewright.commands import tables
from edgewright.commands.failures import explained_failures
from edgewright.commands.interruption import interruption
from edgewright.errors import EdgewrightError, NoSpace, NotWritten, UsageError

Cli = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), "out of memory: MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory: Default"),
        (RuntimeError("std::bad_alloc"), "out of memory: std::bad_alloc"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory: "),
        (RuntimeError("can't start new thread"), "refuses another thread"),
        (OSError(errno.EMFILE, "Too many open files", "a.json"), "a.json: could not be written"),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), "a.json: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), "directory for temporary files"),
    ],
)
def test_what_runs_out_is_said(error: Exception, sentence: str) -> None:
    with pytest.raises(EdgewrightError) as caught, explained_failures():
        raise error
    assert sentence in str(caught.value)
    assert caught.value.hint
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [UsageError("mine"), ValueError("shapes differ")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained_failures():
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
@pytest.mark.parametrize("resumable", [True, False])
def test_signals_clean_up(
    number: int, code: int, word: str, resumable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as caught, interruption(resumable=resumable):
        try:
            signal.raise_signal(number)  # another thread could take what is sent to the process
        finally:
            cleaned.append(True)
    assert caught.value.exit_code == code
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) == before
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(word)
    assert ("to resume" if resumable else "starts afresh") in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_strikes_in_a_finalizer_is_not_lost(number: int) -> None:
    """Python drops what is raised in `__del__`, and a library's object may die at any moment."""

    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)
            for _ in range(1000):  # the signal arrives
                pass

    with pytest.raises(typer.Exit) as caught, interruption(resumable=True):
        dying = Dying()
        del dying
        time.sleep(30)
    assert caught.value.exit_code == 128 + number


def test_a_full_disk_behind_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(NoSpace, match="standard output could not be written: No space"):
            tables.show({"a": 1}, True, "step")


def test_a_baseline_on_a_full_disk(cli: Cli, tmp_path: Path) -> None:
    measured = '{"name": "a", "metrics": {"size_bytes": 5}, "context": {}, "samples": {}}'
    (tmp_path / "new.json").write_text(measured)
    place = tmp_path / "missing" / "base.json"
    code, _, err = cli("gate", tmp_path / "new.json", "--baseline", place, "--update-baseline")
    assert code in (1, 2)
    assert "base.json" in err
    assert "Traceback" not in err
    assert issubclass(NoSpace, NotWritten)
