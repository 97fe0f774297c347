"""Verbs that judge, compare, plan and look up run without torch and the other extras."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import core_only
import pytest
from gate_samples import answered
from test_compare import make_run

from edgewright.commands.missing_packages import extra_with, missing_package

TARGET = "jetson-orin-nano-8gb"


def core(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run edgewright where only the core is installed."""
    return subprocess.run(
        [sys.executable, core_only.__file__, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def saved(folder: Path, name: str, right: int) -> Path:
    """The measurement file of a model that solved `right` of 1,000 problems."""
    file = folder / f"{name}.json"
    digits = "1" * right + "0" * (1000 - right)
    file.write_text(json.dumps(answered(digits, name, notes=[])))
    return file


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "targets",
        f"targets show {TARGET}",
        "recipe schema",
        "doctor",
        f"plan model --target {TARGET}",
        f"targets check model --target {TARGET} --precision int8",
    ],
)
def test_verbs_that_look_things_up(
    line: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(make_model("llama"))
    done = core(*line.split(), cwd=tmp_path)
    assert done.returncode in (0, 3), done.stderr  # 3: the device refuses, which is an answer
    assert "not installed" not in done.stderr
    assert done.stdout


def test_verbs_that_judge(tmp_path: Path) -> None:
    before, after = saved(tmp_path, "before", 900), saved(tmp_path, "after", 500)
    passed = core("gate", before, "--baseline", before, cwd=tmp_path)
    failed = core("gate", after, "--baseline", before, cwd=tmp_path)
    assert (passed.returncode, failed.returncode) == (0, 5), passed.stderr + failed.stderr


def test_runs_are_compared_and_reports_name_what_draws_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, 150)
    compared = core("compare", run, run, cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    reported = core("report", run, cwd=tmp_path)
    assert reported.returncode == 1
    assert "pip install 'edgewright[report]'" in reported.stderr


def test_a_missing_package_is_named_with_its_extra(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(make_model("llama"))
    done = core("quantize", "model", "--method", "rtn", "--out", "int4", cwd=tmp_path)
    assert done.returncode == 1
    assert "torch, which is not installed" in done.stderr
    assert "pip install 'edgewright[compress]'" in done.stderr
    assert not (tmp_path / "int4").exists()


def test_every_optional_package_has_an_extra() -> None:
    for extra, listed in core_only.PROJECT["optional-dependencies"].items():
        for requirement in listed:
            name = core_only.canonical(requirement)
            if extra not in ("dev", "docs") and name != "edgewright":
                assert extra_with(name) is not None, name


def test_an_unknown_module_is_no_missing_package() -> None:
    assert missing_package(ModuleNotFoundError("no", name="nowhere.to.be_found")) is None
    assert missing_package(ImportError("cannot import name", name="torch")) is None


def test_the_docs_list_every_extra() -> None:
    page = (Path(core_only.__file__).parents[1] / "docs" / "install.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert listed == [
        extra for extra in core_only.PROJECT["optional-dependencies"] if extra != "dev"
    ]
