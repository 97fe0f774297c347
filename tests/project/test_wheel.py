"""The wheel has every module and data file, and runs where no other edgewright is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from edgewright.docs.import_graph import NOT_SHIPPED, ROOT, sources

NOT_SOURCES = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without PYTHONPATH, which could lend it another edgewright: its output."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy, so that an old build/ folder cannot add a file to it."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCES)
    run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        folder / "dist",
        folder / "source",
        cwd=folder,
    )
    (made,) = (folder / "dist").glob("edgewright-*.whl")
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def shipped(pattern: str) -> set[str]:
    """The paths that files of the repository must have in the wheel."""
    return {
        f"edgewright/{file.relative_to(ROOT).as_posix()}"
        for file in ROOT.glob(pattern)
        if "__pycache__" not in file.parts
    }


def test_data_files_are_inside(names: set[str]) -> None:
    assert names >= {
        "edgewright/recipes/demo.yaml",
        "edgewright/targets/fit.yaml",
        "edgewright/benchmarks/report/templates/report.html",
    }
    for pattern in (
        "recipes/**/*.yaml",
        "targets/**/*.yaml",
        "targets/containers/*",
        "benchmarks/report/templates/*",
        "data/*.jsonl",
        "demo/model/*",
    ):
        assert shipped(pattern) <= names, pattern


def test_every_module_is_inside(names: set[str]) -> None:
    expected = {f"edgewright/{module.replace('.', '/')}.py" for module in sources()}
    assert {name for name in names if name.endswith(".py")} == expected


def test_nothing_else_is_inside(names: set[str]) -> None:
    roots = {name.split("/")[0] for name in names}
    assert {root for root in roots if not root.endswith(".dist-info")} == {"edgewright"}
    tops = {name.split("/")[1] for name in names if name.startswith("edgewright/")}
    assert not tops & {*NOT_SHIPPED, "Makefile", "pyproject.toml"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_it_imports_and_runs(wheel: Path, names: set[str], tmp_path: Path) -> None:
    """In an environment with the dependencies only, started outside the repository."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=tmp_path,
    )
    (site,) = (venv / "lib").glob("python*/site-packages")
    # Python does not read the .pth files of a folder that a .pth file adds: our editable install,
    # which is one of them, stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    modules = sorted(
        n.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for n in names
        if n.endswith(".py")
    )
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(site)!r}), module.__file__\n"
        "from edgewright.pipeline.recipe_file import builtin_recipe, load_recipe\n"
        "from edgewright.targets.profile import load_target\n"
        "load_target(load_recipe(builtin_recipe('demo')).target)\n"
        "print(len(sys.argv) - 1)\n"
    )
    assert int(run(python, "-c", code, *modules, cwd=tmp_path).split()[-1]) == len(modules) > 40
    assert "prune" in run(venv / "bin" / "edgewright", "--help", cwd=tmp_path)
