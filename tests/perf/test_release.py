"""The checks of `make dist`: equal wheels, the Pythons that are here, and what must be printed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgewright.perf import release


def wheel(file: Path, **files: str) -> Path:
    """A wheel with these files and their checksums."""
    record = [f"{name}.py,sha256={text},1" for name, text in files.items()]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x-1.dist-info/RECORD", "\n".join([*record, "x-1.dist-info/RECORD,,"]))
    return file


def test_differences_are_named(tmp_path: Path) -> None:
    one = wheel(tmp_path / "one.whl", same="a", changed="a", lost="a")
    other = wheel(tmp_path / "other.whl", same="a", changed="b", new="a")
    assert release.differences(one, one) == []
    assert release.differences(one, other) == ["changed.py", "lost.py", "new.py"]


def test_this_python_is_found() -> None:
    found = dict(release.interpreters())
    assert found[f"{sys.version_info[0]}.{sys.version_info[1]}"] == sys.executable
    for version, python in found.items():
        said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True)
        assert said.stdout.startswith(f"Python {version}.")


@pytest.mark.parametrize(("broken", "why"), [("--help", "no `quantize`"), ("gate", "no `PASS`")])
def test_a_wheel_that_does_not_work_is_refused(
    broken: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"--version": "0.2.0", "--help": "quantize", "plan": "int4", "gate": "gate: PASS"}
    ran: list[str] = []

    def run(command: list[str], folder: Path) -> str:
        ran.append(command[1])
        return "" if command[1] == broken else said.get(command[1], "")

    monkeypatch.setattr(release, "_run", run)
    with pytest.raises(SystemExit, match=why):
        release.try_wheel(Path("x.whl"), sys.executable, tmp_path)
    monkeypatch.setattr(release, "_run", lambda command, folder: said.get(command[1], ""))
    release.try_wheel(Path("x.whl"), sys.executable, tmp_path)
    assert ran[0] == "-m", "the environment is made first"


def test_an_error_shows_what_was_printed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="oh no"):
        release._run([sys.executable, "-c", "raise SystemExit('oh no')"], tmp_path)
