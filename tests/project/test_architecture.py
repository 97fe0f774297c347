"""Which part of the package may import which, and where the names of architectures may stand."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from edgewright.docs.import_graph import (
    ROOT,
    Import,
    all_imports,
    circles,
    imports_of,
    part_of,
    sources,
)

GROUND = {"errors", "console", "documents", "redaction"}
STORES = {"checkpoints", "models", "data"}
BELOW_FOUR = GROUND | STORES | {"generation", "steps"}
FOUR = {"compress", "export", "benchmarks", "targets"}
BELOW_COMMANDS = BELOW_FOUR | FOUR | {"pipeline"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "console": {"errors", "redaction"},
    "documents": {"errors"},
    "redaction": set(),
    "models": GROUND,
    "data": GROUND,
    "checkpoints": GROUND | {"models"},
    "generation": GROUND | {"models"},
    "steps": GROUND | STORES | {"generation"},
    "compress": BELOW_FOUR,
    "export": BELOW_FOUR,
    "benchmarks": BELOW_FOUR | {"export"},
    "targets": BELOW_FOUR | {"export", "benchmarks"},
    "pipeline": BELOW_FOUR | FOUR,
    "demo": BELOW_COMMANDS,
    "commands": BELOW_COMMANDS | {"demo"},
    "cli": BELOW_COMMANDS | {"demo", "commands"},
    "__init__": set(),
}
"""The arrows of docs/architecture.md: part -> the other parts that it may import."""
ROOT_FILES = {"cli", "errors", "console", "documents", "redaction", "__init__"}
NAMES = re.compile(
    r"\b([qkvo]|qkv|gate|up|down|gate_up)_proj\b|\bself_attn\b|\bmlp\.|_layernorm\b"
    r"|\bembed_tokens\b|\brotary_emb\b|\bmodel\.(layers|norm)\b"
    r"|\bblock_sparse_moe\b|\bshared_expert|\bnum_(local_)?experts\b"
)
"""What architectures call their parts."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def listed(offenders: list[str]) -> str:
    """All offenders in one message, one a line."""
    return f"{len(offenders)} offenders:\n  " + "\n  ".join(offenders)


def test_every_part_has_a_place() -> None:
    assert {part_of(module) for module in sources()} == set(MAY_IMPORT)


def test_the_root_holds_the_entry_point_and_the_ground_modules_only() -> None:
    assert {module for module in sources() if "." not in module} == ROOT_FILES


def test_the_parser_sees_the_imports() -> None:
    """Relative, late and absolute imports are found, and `from package import module` is split."""
    tree = ast.parse(
        "from ..errors import UsageError\n"
        "from . import cut\n"
        "import edgewright.console\n"
        "if TYPE_CHECKING:\n    from ..models import Family\n"
        "def late():\n    from ...data import sources, nothing\n"
    )
    known = frozenset(
        {"errors", "console", "a.x", "a.b.cut", "a.models.__init__", "data.sources", "__init__"}
    )
    assert [
        (found.target, found.line, found.typing_only)
        for found in imports_of("a.b.module", tree, known)
    ] == [
        ("__init__", 1, False),  # `a.errors` does not exist, so only the root package is left
        ("a.b.cut", 2, False),
        ("console", 3, False),
        ("a.models.__init__", 5, True),
        ("data.sources", 7, False),
        ("__init__", 7, False),
    ]
    targets = {found.target for found in all_imports() if part_of(found.source) == "pipeline"}
    assert {part_of(target) for target in targets} >= {"export", "checkpoints", "errors"}


@pytest.mark.parametrize("part", sorted(MAY_IMPORT))
def test_imports_point_one_way(part: str) -> None:
    allowed = MAY_IMPORT[part] | {part, "__init__"}
    wrong = [
        str(found)
        for found in all_imports()
        if part_of(found.source) == part and part_of(found.target) not in allowed
    ]
    assert not wrong, listed(wrong)


def test_circles_are_found() -> None:
    def edge(source: str, target: str, typing_only: bool = False) -> Import:
        return Import(source, target, 1, typing_only)

    assert circles((edge("a", "b"), edge("b", "c"), edge("c", "a"), edge("c", "d"))) == [
        ["a", "b", "c"]
    ]
    assert circles((edge("a", "b"), edge("b", "a", typing_only=True))) == []


def test_no_files_import_each_other() -> None:
    found = [" <-> ".join(group) for group in circles(all_imports())]
    assert not found, listed(found)


def test_no_absolute_imports_of_ourselves() -> None:
    absolute = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and part_of(node.module or "") == "edgewright"
        )
        or (
            isinstance(node, ast.Import)
            and any(part_of(alias.name) == "edgewright" for alias in node.names)
        )
    ]
    assert not absolute, listed(absolute)


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of the docstring constants of modules, classes, functions and attributes."""
    owners = [
        node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | Function)
    ]
    return {
        id(statement.value)
        for node in owners
        for statement in node.body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and text of every string of a module that is not a docstring."""
    skip = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node.lineno, node.value


def test_architectures_are_named_in_models_only() -> None:
    named = {
        module: [
            f"{module}:{line}: {text!r}" for line, text in literals(tree) if NAMES.search(text)
        ]
        for module, tree in sources().items()
    }
    assert any(found for module, found in named.items() if part_of(module) == "models")
    wrong = [
        text for module, found in named.items() if part_of(module) != "models" for text in found
    ]
    assert not wrong, listed(wrong)


def test_packages_are_listed() -> None:
    """A folder of modules without `__init__.py`, or missing in pyproject.toml, would not ship."""
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    found = {
        ".".join(["edgewright", *module.split(".")[:-1]])
        for module in sources()
        if module.split(".")[-1] == "__init__"
    }
    assert sorted(found) == sorted(packages)
    assert {".".join(["edgewright", *module.split(".")[:-1]]) for module in sources()} == found
