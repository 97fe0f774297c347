"""The lock of an output: one owner at a time, named in messages, and never left by a dead one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgewright.checkpoints import locks
from edgewright.checkpoints.locks import locked, writer_of
from edgewright.checkpoints.owner import Owner
from edgewright.errors import EdgewrightError, UsageError

HOLD = """
import sys
from pathlib import Path
from edgewright.checkpoints.locks import locked
with locked(Path(sys.argv[1]), inside=sys.argv[2] == "inside", command="edgewright quantize m"):
    print("held", flush=True)
    sys.stdin.read()
"""


def start(place: Path, where: str = "beside") -> subprocess.Popen[str]:
    """Another process that holds the lock of a place until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place), where],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@contextmanager
def other(place: Path, where: str = "beside") -> Iterator[subprocess.Popen[str]]:
    process = start(place, where)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def refused(place: Path, *, inside: bool = False) -> EdgewrightError:
    with pytest.raises(EdgewrightError) as caught, locked(place, inside=inside):
        pytest.fail("the block must not run")
    return caught.value


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    for inside in (False, True):
        with locked(tmp_path / "deep" / "out", inside=inside):
            assert list(tmp_path.rglob("*.lock"))
        assert not list(tmp_path.iterdir())


def test_what_was_made_under_a_lock_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "run", inside=True):
        (tmp_path / "run" / "ledger.json").write_text("{}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ledger.json"]


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_the_message_names_the_owner_and_what_to_do(where: str, tmp_path: Path) -> None:
    with other(tmp_path / "out", where) as process:
        error = refused(tmp_path / "out", inside=where == "inside")
    assert "another edgewright run" in str(error)
    for part in ("`edgewright quantize m`", f"process {process.pid}", os.uname().nodename, "since"):
        assert part in str(error)
    assert error.hint.startswith("wait until it has ended")
    assert error.exit_code == 1
    assert "\n" not in str(error)


WANTED = [
    ("run", "beside", "run", "inside"),
    ("run", "inside", "run", "beside"),
    ("run", "inside", "run/step", "beside"),
    ("run", "inside", "run/deep/er/step", "beside"),
    ("run/step", "beside", "run", "inside"),
    ("run/trials/1/step", "beside", "run", "inside"),
    ("run/trials/1", "inside", "run", "inside"),
    ("run", "beside", "run/a.json", "beside"),
]


@pytest.mark.parametrize(("held", "how", "wanted", "where"), WANTED)
def test_places_around_and_inside_are_seen(
    held: str, how: str, wanted: str, where: str, tmp_path: Path
) -> None:
    with other(tmp_path / held, how):
        assert "another edgewright run" in str(refused(tmp_path / wanted, inside=where == "inside"))
    with locked(tmp_path / wanted, inside=where == "inside"):
        pass


def test_places_apart_do_not_disturb_each_other(tmp_path: Path) -> None:
    with other(tmp_path / "a"), other(tmp_path / "run" / "b"), locked(tmp_path / "run" / "c"):
        pass


def test_a_link_to_the_same_directory_is_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with other(tmp_path / "real" / "out"):
        refused(tmp_path / "link" / "out")
        refused(tmp_path / "link" / ".." / "real" / "out")


def test_steps_of_a_run_lock_inside_the_lock_of_the_run(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run", inside=True),
        locked(tmp_path / "run" / ".step.journal", inside=True),
    ):
        pass


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_the_lock_of_a_killed_owner_is_taken_over(where: str, tmp_path: Path) -> None:
    process = start(tmp_path / "out", where)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.rglob("*.lock"))
    with locked(tmp_path / "out", inside=where == "inside"):
        pass
    assert not list(tmp_path.rglob("*.lock"))


def test_a_stopped_owner_keeps_its_lock(tmp_path: Path) -> None:
    with other(tmp_path / "out") as process:
        process.send_signal(signal.SIGSTOP)
        refused(tmp_path / "out")
        process.send_signal(signal.SIGCONT)


def test_a_number_that_another_process_has_today_means_nothing(tmp_path: Path) -> None:
    """The file names a living process, and nobody has the lock: the owner is dead."""
    (tmp_path / ".out.lock").write_bytes(replace(Owner.me(), pid=os.getppid()).text())
    with locked(tmp_path / "out"):
        pass


def test_an_owner_on_another_machine_may_live(tmp_path: Path) -> None:
    """Locks may not reach over a network: the user has to say that the owner is dead."""
    file = tmp_path / ".out.lock"
    away = Owner("far", "another start", 7, "edgewright prune m", "yesterday")
    file.write_bytes(away.text())
    error = refused(tmp_path / "out")
    assert "process 7 on far" in str(error)
    assert f"remove {file}" in error.hint
    assert Owner.parse(file.read_bytes()) == away
    file.unlink()
    with locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize("same", ["host", "machine"])
def test_a_restarted_machine_or_container_is_the_same(same: str, tmp_path: Path) -> None:
    mine = Owner.me()
    dead = Owner("far", "another start", 7, "edgewright prune m", "yesterday")
    owner = replace(dead, **{same: getattr(mine, same)})
    (tmp_path / ".out.lock").write_bytes(owner.text())
    with locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize("content", ["my own notes", "[]", "{}", '{"edgewright lock": {"pid": 1}}'])
def test_a_foreign_file_is_not_taken_for_a_lock(content: str, tmp_path: Path) -> None:
    file = tmp_path / ".out.lock"
    file.write_text(content)
    assert isinstance(refused(tmp_path / "out"), UsageError)
    assert file.read_text() == content


def test_a_damaged_lock_of_a_dead_owner_is_taken_over(tmp_path: Path) -> None:
    place = tmp_path / "out"
    good = Owner.me("edgewright prune").text()
    for at in range(0, len(good), 3):
        (tmp_path / ".out.lock").write_bytes(good[:at] + bytes([good[at] ^ 2]) + good[at + 1 :])
        try:
            with locked(place):
                pass
        except EdgewrightError as error:  # the bit made it another machine's
            assert "process" in str(error), good[at:]


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".out.lock").symlink_to("precious")
    assert isinstance(refused(tmp_path / "out"), UsageError)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "out", tmp_path / ("n" * 300), Path("/proc/out")):
        assert isinstance(refused(place), UsageError)


def test_two_threads_are_two_commands(tmp_path: Path) -> None:
    found: list[BaseException] = []

    def second() -> None:
        try:
            with locked(tmp_path / "out"):
                pass
        except EdgewrightError as error:
            found.append(error)

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(found) == 1


def test_waiting_for_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(tmp_path / "cache")
    threading.Timer(0.3, lambda: process.communicate("")).start()
    begin = time.monotonic()
    with locked(tmp_path / "cache", wait=True):
        assert time.monotonic() - begin > 0.25
    assert "waiting for `edgewright quantize m`" in " ".join(capsys.readouterr().err.split())


def test_many_at_once_are_never_inside_together(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from edgewright.checkpoints.locks import locked\n"
        "inside = Path(sys.argv[1]) / 'inside'\n"
        "for _ in range(20):\n"
        "    with locked(Path(sys.argv[1]) / 'out', wait=True):\n"
        "        inside.touch(exist_ok=False)\n"
        "        time.sleep(0.001)\n"
        "        inside.unlink()\n"
    )
    program = f"import edgewright.checkpoints.locks as l\nl.POLL = 0.001\n{program}"
    command = [sys.executable, "-c", program, str(tmp_path)]
    every = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [process.wait(timeout=600) for process in every] == [0] * 4
    assert not list(tmp_path.iterdir())


def test_who_replaces_an_input(tmp_path: Path) -> None:
    assert writer_of(tmp_path / "out") is None
    with other(tmp_path / "out") as process:
        owner = writer_of(tmp_path / "out")
        assert owner is not None
        assert owner.pid == process.pid
    with locked(tmp_path / "out"):
        assert writer_of(tmp_path / "out") is None


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(handle: int, how: int) -> None:
        raise OSError(locks.NO_LOCKS[0], "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with locked(tmp_path / "out"):
        pass
    assert "has no locks" in capsys.readouterr().err


def test_a_long_command_is_cut_in_messages_only() -> None:
    owner = replace(Owner.me(), command="x" * 10_000)
    assert len(str(owner)) < 400
    assert json.loads(owner.text())["edgewright lock"]["command"] == "x" * 10_000
