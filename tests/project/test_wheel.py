"""The wheel has every module and data file, and runs where no other edgewright is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from edgewright.commands.doctor import EXTRAS
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
        "edgewright/py.typed",
        "edgewright/__init__.pyi",
        "edgewright/commands/api.pyi",
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


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and with the dependencies but no other edgewright."""
    folder = tmp_path_factory.mktemp("installed")
    venv = folder / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=folder)
    python = venv / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=folder)
    # Python does not read the .pth files of a folder that a .pth file adds: our editable install,
    # which is one of them, stays out.
    (site_of(venv) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def site_of(venv: Path) -> Path:
    """The directory of an environment's packages."""
    (site,) = (venv / "lib").glob("python*/site-packages")
    return site


def test_installed_it_imports_and_runs(installed: Path, names: set[str], tmp_path: Path) -> None:
    """In an environment with the dependencies only, started outside the repository."""
    python = installed / "bin" / "python"
    modules = sorted(
        n.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for n in names
        if n.endswith(".py")
    )
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    module = importlib.import_module(name)\n"
        f"    assert module.__file__.startswith({str(site_of(installed))!r}), module.__file__\n"
        "print(len(sys.argv) - 1)\n"
    )
    assert int(run(python, "-c", code, *modules, cwd=tmp_path).split()[-1]) == len(modules) > 40
    edgewright = installed / "bin" / "edgewright"
    assert "prune" in run(edgewright, "--help", cwd=tmp_path)
    for name in sorted(file.stem for file in ROOT.glob("recipes/*.yaml")):
        shown = run(python, "-c", SHIPPED, name, cwd=tmp_path)
        assert shown.split() == [name, "True"]


SHIPPED = (
    "import sys\n"
    "from pathlib import Path\n"
    "from edgewright.pipeline.recipe_file import load_recipe\n"
    "from edgewright.targets.profile import load_target\n"
    "recipe = load_recipe(Path(sys.argv[1]))\n"
    "print(recipe.name, recipe.target is None or bool(load_target(recipe.target)))\n"
)
"""Opens a recipe that ships with the wheel by its name, and its target."""
NO_EXTRAS = (
    "from importlib.machinery import PathFinder\n"
    "find = PathFinder.find_spec\n"
    "def known(name, path=None, target=None):\n"
    "    return None if name.partition('.')[0] in {extras} else find(name, path, target)\n"
    "PathFinder.find_spec = staticmethod(known)\n"
)
"""A sitecustomize.py that hides the packages of the extras."""
QUICK = (
    "evaluate.limit=2",
    "evaluate.max_new_tokens=4",
    "evaluate.windows=2",
    "evaluate.latency={prompt: 4, new_tokens: 4, runs: 1}",
    "calibration.samples=4",
    "calibration.seq_len=64",
    "steps.distill.stages=[{loss: hidden, steps: 1}, {loss: logits, steps: 1}]",
    "steps.distill.batch_size=2",
    "gate=null",
)


def test_the_demo_runs_in_an_empty_directory_with_the_extra_compress_alone(
    installed: Path, tmp_path: Path
) -> None:
    hidden = {*EXTRAS, "uvicorn", "prometheus_client", "llguidance", "tensorrt_rtx", "optimum"}
    (site_of(installed) / "sitecustomize.py").write_text(NO_EXTRAS.format(extras=hidden))
    edgewright = installed / "bin" / "edgewright"
    settings = [word for setting in QUICK for word in ("--set", setting)]
    run(edgewright, "run", "demo", *settings, cwd=tmp_path)
    ledger = json.loads((tmp_path / "runs" / "demo" / "ledger.json").read_text())
    assert [step["name"] for step in ledger["steps"]][-1] == "export-int8"
    assert (tmp_path / "runs" / "demo" / "report.html").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
