"""The modules of a bundle run on Python 3.10, which JetPack 6 has."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewright.docs.import_graph import ROOT
from edgewright.targets import load_target
from edgewright.targets.bundle import LIBRARY, make_bundle, write_bundle
from edgewright.targets.preflight import MIN_PYTHON

pytest_plugins = ["deploy_fixtures"]

OLDEST = tuple(map(int, MIN_PYTHON.split(".")))
NEWER = {
    "asyncio": {"Runner", "TaskGroup", "timeout", "timeout_at"},
    "collections.abc": {"Buffer"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "member", "nonmember", "verify"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "math": {"cbrt", "exp2", "fma", "sumprod"},
    "operator": {"call"},
    "os": {"process_cpu_count", "setns", "unshare"},
    "sys": {"exception", "monitoring"},
    "types": {"get_original_bases"},
    "typing": {
        "LiteralString",
        "Never",
        "NotRequired",
        "Required",
        "Self",
        "TypeAliasType",
        "TypeVarTuple",
        "Unpack",
        "assert_never",
        "assert_type",
        "dataclass_transform",
        "override",
        "reveal_type",
    },
}
"""What modules got after 3.10, found by comparing `dir()` of 3.10 and 3.13."""
NEWER_MODULES = {"tomllib"}
NEWER_NAMES = {"BaseExceptionGroup", "ExceptionGroup", "PythonFinalizationError"}
NEWER_METHODS = {"add_note", "from_uri", "full_match", "is_junction", "with_segments"}
NEWER_KEYWORDS = {"delete_on_close", "onexc", "process_group", "walk_up", "weakref_slot"}
NEEDS_ARGUMENTS = {"to_bytes", "from_bytes"}
"""Their size and byte order have defaults since 3.11."""


def newer(tree: ast.AST) -> Iterator[str]:
    """What a module uses that 3.10 does not have; what is only for types is left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield from used_by(node)
        yield from newer(node)


def used_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (one.name for one in node.names if one.name in NEWER_MODULES)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        names = {one.name for one in node.names}
        yield from (f"{node.module}.{name}" for name in names & NEWER.get(node.module or "", set()))
    elif isinstance(node, ast.Attribute):
        if node.attr in NEWER.get(ast.unparse(node.value), set()) | NEWER_METHODS:
            yield ast.unparse(node)
    elif isinstance(node, ast.Name) and node.id in NEWER_NAMES:
        yield node.id
    elif isinstance(node, ast.Call):
        yield from (f"{word.arg}=" for word in node.keywords if word.arg in NEWER_KEYWORDS)
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if called in NEEDS_ARGUMENTS and len(node.args) + len(node.keywords) < 2:
            yield called


@pytest.mark.parametrize("name", LIBRARY)
def test_a_module_has_the_syntax_and_the_names_of_3_10(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text(), feature_version=OLDEST)
    assert list(newer(tree)) == []


@pytest.mark.parametrize(
    "text",
    [
        "from typing import Self",
        "import tomllib",
        "import datetime\ndatetime.UTC",
        "error.add_note('x')",
        "raise ExceptionGroup('x', [])",
        "subprocess.run([], process_group=0)",
        "(1).to_bytes(4)",
        "def late():\n    from contextlib import chdir",
    ],
)
def test_what_is_newer_is_found(text: str) -> None:
    assert list(newer(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    ["try:\n    pass\nexcept* ValueError:\n    pass", "def f[T](x: T): pass", "type A = int"],
)
def test_newer_syntax_is_found(text: str) -> None:
    with pytest.raises(SyntaxError):
        ast.parse(text, feature_version=OLDEST)


def python_3_10() -> str | None:
    """A Python 3.10 of this machine that starts; a shim of pyenv may not."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which("python3.10"), *map(str, sorted(pyenv.glob("3.10.*/bin/python3.10")))]
    working = (
        one
        for one in found
        if one and not subprocess.call([one, "-c", ""], stderr=subprocess.DEVNULL)
    )
    return next(working, None)


PYTHON_3_10 = python_3_10()


@pytest.mark.skipif(PYTHON_3_10 is None, reason="there is no Python 3.10 here")
def test_a_bundle_starts_on_3_10(artifact: Path, tmp_path: Path) -> None:
    """Without numpy, all modules compile, and the verbs that need none run."""
    python = str(PYTHON_3_10)
    bundle = write_bundle(make_bundle(artifact, load_target("cpu")), tmp_path / "bundle")
    compiled = subprocess.run(
        [python, "-m", "compileall", "-q", str(bundle / "lib")], capture_output=True, text=True
    )
    assert compiled.returncode == 0, compiled.stdout
    for cache in (bundle / "lib").rglob("__pycache__"):
        shutil.rmtree(cache)
    for word in ("verify", "probe"):
        done = subprocess.run(
            [str(bundle / "run.sh"), word],
            env={"PATH": os.environ["PATH"], "PYTHON": python},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        if word == "probe":
            assert re.search(r'"python": "3\.10\.\d+"', done.stdout)
