"""Runs the command line as if only the dependencies of the core were installed, without extras.

Packages that are installed, and that the core does not bring, cannot be imported.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def canonical(requirement: str) -> str:
    """The name of a requirement in the form that indexes compare."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def brought_by_the_core() -> set[str]:
    """The packages that the core needs, and what these need."""
    found: set[str] = set()
    waiting = [canonical(one) for one in PROJECT["dependencies"]]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # for another system or version of Python
            continue
        waiting += [canonical(one) for one in needs if "extra ==" not in one]
    return found


class Missing(MetaPathFinder):
    """Refuses the modules of packages that the core does not bring."""

    def __init__(self) -> None:
        core = brought_by_the_core()
        self.names = {
            module
            for module, packages in packages_distributions().items()
            if not {canonical(package) for package in packages} & core
        } - {"edgewright"}

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


if __name__ == "__main__":
    hook = Missing()
    assert {"torch", "transformers", "onnx", "matplotlib"} <= hook.names
    sys.meta_path.insert(0, hook)
    from edgewright.cli import main

    main()
