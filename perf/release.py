"""Checks the files of a release, as `make dist` does; needs nothing but Python.

    python3 perf/release.py dist WHEEL-BUILT-FROM-THE-TREE

The wheel in `dist` was built from the sdist, and must be the same as the other one. It is installed
into an empty environment of every Python that edgewright supports and that is found here, with its
dependencies and without extras. There `--help`, `plan` and `gate` must work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
MODEL = "builtin:tiny-reasoner"
MEASUREMENT = {
    "name": "model",
    "metrics": {"accuracy/reasoning": 0.5},
    "context": {"problems/reasoning": 40},
    "samples": {"accuracy/reasoning": {"correct": "10" * 20}},
}
COMMANDS = {
    "--version": r"^\d+\.\d+\.\d+$",
    "--help": r"quantize",
    f"plan {MODEL} --target jetson-orin-nano-8gb": r"int4",
    "gate model.json --baseline model.json": r"PASS",
}
"""What is run, and what must be printed."""


def contents(wheel: Path) -> dict[str, str]:
    """The files of a wheel and their checksums, from its own list."""
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD")]
        lines = archive.read(record).decode().splitlines()
    rows = [line.rsplit(",", 2) for line in lines if line]
    return {name: digest for name, digest, _ in rows}


def differences(one: Path, other: Path) -> list[str]:
    """The files that two wheels do not share, or that differ."""
    mine = contents(one)
    theirs = contents(other)
    return sorted(
        name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)
    )


def interpreters() -> Iterator[tuple[str, str]]:
    """The supported versions of Python that are found: on PATH, with pyenv, or this one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        known = [shutil.which(f"python{version}")]
        known += map(str, sorted(pyenv.glob(f"{version}.*/bin/python{version}")))
        if sys.version_info[:2] == tuple(map(int, version.split("."))):
            known.insert(0, sys.executable)
        working = (python for python in known if python and _starts(python))
        if python := next(working, None):
            yield version, python


def _starts(python: str) -> bool:
    """Whether it is a Python, and no shim of pyenv for a version that is not chosen."""
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def try_wheel(wheel: Path, python: str, folder: Path) -> None:
    """Install a wheel into an empty environment, and run the commands there.

    Args:
        wheel: what to install.
        python: the interpreter.
        folder: where the environment goes.

    Raises:
        SystemExit: something does not work.
    """
    _run([python, "-m", "venv", str(folder / "venv")], folder)
    program = folder / "venv" / "bin"
    pip = [str(program / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", str(wheel)], folder)
    (folder / "model.json").write_text(json.dumps(MEASUREMENT))
    for line, expected in COMMANDS.items():
        said = _run([str(program / "edgewright"), *line.split()], folder)
        if not re.search(expected, said, re.MULTILINE):
            raise SystemExit(f"edgewright {line}: no `{expected}` in what it printed:\n{said}")


def _run(command: list[str], folder: Path) -> str:
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: text for name, text in os.environ.items() if name not in hidden}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def main() -> None:
    """Check a folder with one wheel and one sdist."""
    folder, direct = map(Path, sys.argv[1:])
    (wheel,) = folder.resolve().glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    if different := differences(wheel, direct):
        raise SystemExit(f"{sdist} does not build the wheel of the tree: {', '.join(different)}")
    print(f"{sdist.name} builds the same wheel, {len(contents(wheel))} files")
    for version, python in interpreters():
        with tempfile.TemporaryDirectory() as made:
            try_wheel(wheel, python, Path(made))
        print(f"Python {version}: --help, plan and gate work")


if __name__ == "__main__":
    main()
