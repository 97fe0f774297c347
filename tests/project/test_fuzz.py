"""A slice of the campaign `make fuzz`, and that the campaign sees what it is to see."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from edgewright.errors import UsageError
from edgewright.perf.fuzz.campaign import run
from edgewright.perf.fuzz.readers import FileReader, all_readers

CASES = 25
"""Of each reader."""


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> list[FileReader]:
    return all_readers(tmp_path_factory.mktemp("valid"))


def test_no_reader_is_surprised(readers: list[FileReader], tmp_path: Path) -> None:
    results = [run(reader, CASES, 1, tmp_path / "case") for reader in readers]
    findings = [one for result in results for one in result.findings.values()]
    assert not findings, "\n".join(f"{one.what} at {one.where}: {one.case}" for one in findings)
    assert all(result.cases >= CASES - 5 for result in results)
    refused = {result.name for result in results if result.refused}
    assert {"recipes", "config.json, plan", "tokenizers", "indexes"} <= refused


def spin() -> None:
    while True:
        pass


def swallow() -> None:
    try:
        (Path(__file__).parent / "never-made").write_text("x")
    except OSError:
        return
    finally:
        (Path(__file__).parent / "never-made").unlink(missing_ok=True)


BAD: dict[str, Callable[[Path], Any]] = {
    "KeyError": lambda _: {}["x"],
    "Hang": lambda _: spin(),
    "Touched: open": lambda _: swallow(),
    "Touched: os.remove": lambda f: os.remove(f / "../nothing"),
    "Touched: subprocess.Popen": lambda _: subprocess.run([sys.executable, "--version"]),
    "Touched: pickle.find_class": lambda _: pickle.loads(pickle.dumps(Path)),
}


@pytest.mark.parametrize("what", BAD)
def test_the_campaign_sees(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgewright.perf.fuzz.watch.SECONDS", 1.0)
    files = st.just({"a": b"x"})
    found = run(FileReader("bad", files, BAD[what]), 1, 0, tmp_path / "case")
    assert [one.what.startswith(what) for one in found.findings.values()] == [True]


def test_the_campaign_accepts(tmp_path: Path) -> None:
    def fine(folder: Path) -> None:
        assert (folder / "a").read_bytes() == b"x"
        (folder / "b").write_text("y")
        if len(list(folder.iterdir())) == 2:
            raise UsageError("refused")

    found = run(FileReader("good", st.just({"a": b"x"}), fine), 1, 0, tmp_path / "case")
    assert (found.cases, found.refused, found.findings) == (1, 1, {})
