"""Programs that try to get out of the sandbox, to stay, or to pass without being right.

Each is run in every confinement: with bubblewrap in `make sandbox-test`, which installs it; with
namespaces and with Landlock alone here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from escapes import FILES, HARMFUL, NETWORK, PROCESSES, RESOURCES, THREADS, program_of
from forgeries import FORGERIES, PREAMBLE, RIGHT
from outside import Outside, processes_with

from edgewright.benchmarks.tasks.sandbox import (
    Confiner,
    ProgramResult,
    confiners,
    protections,
    run_program,
)

ATTEMPTS = FILES | NETWORK | PROCESSES | RESOURCES | HARMFUL
SHORT = PROCESSES | RESOURCES
CONTROLS = [
    *FILES,
    *NETWORK,
    *("run a shell", "end a process", "slow a process down", "limit a process"),
    *("hide memory in a file", "start 100 processes", "open a process"),
    *("write a long file", "make a long file with a hole", "open 1000 files"),
]
"""Attempts that need no rights and that end."""
MISTAKES = ("NameError", "SyntaxError", "ModuleNotFoundError")
"""Ends of an attempt that tried nothing."""


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    folder = tmp_path / "outside"
    folder.mkdir()
    made = Outside(folder)
    yield made
    made.close()


def attempt(outside: Outside, confiner: Confiner, name: str, body: str) -> ProgramResult:
    tests = f"assert attempt({outside.host!r}) is True"
    seconds = 1.0 if name in SHORT else 5.0
    return run_program(program_of(body), seconds, tests, confiner=confiner)


def test_something_confines_programs_here() -> None:
    assert "seccomp" in protections()
    assert {one.kind for one in confiners()} & {"bubblewrap", "namespaces", "landlock"}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_nothing_outside_changes(
    name: str,
    outside: Outside,
    confiner: Confiner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(inside))
    outcome = attempt(outside, confiner, name, ATTEMPTS[name])
    assert not outcome.passed
    assert not any(error in outcome.reason for error in MISTAKES)
    assert outside.changes() == {}
    assert processes_with(str(inside)) == []
    assert list(inside.iterdir()) == []


@pytest.mark.parametrize("name", THREADS)
def test_threads_are_counted(name: str, outside: Outside, confiner: Confiner) -> None:
    """Landlock alone does not count them; memory limits them there."""
    if confiner.kind != "landlock":
        assert not attempt(outside, confiner, name, THREADS[name]).passed


@pytest.mark.parametrize("name", CONTROLS)
def test_without_a_sandbox_it_works(name: str, outside: Outside, tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    inside = tmp_path / "inside"
    inside.mkdir()
    program = f"{program_of(ATTEMPTS[name])}\nassert attempt({outside.host!r}) is True"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], cwd=inside, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("name", FORGERIES)
def test_a_wrong_program_does_not_pass(name: str, confiner: Confiner) -> None:
    program, tests = FORGERIES[name]
    outcome = run_program(program, 2.0, tests, PREAMBLE, confiner)
    assert not outcome.passed
    assert not any(error in outcome.reason for error in MISTAKES)


def test_a_right_program_does(confiner: Confiner) -> None:
    assert run_program("def answer():\n    return 42", 2.0, RIGHT, PREAMBLE, confiner).passed


@pytest.mark.parametrize("name", FORGERIES)
def test_nor_does_it_where_the_tests_stand_behind_it(name: str) -> None:
    program, tests = FORGERIES[name]
    assert not run_program(f"{program}\n{PREAMBLE}\n{tests}", 2.0).passed
