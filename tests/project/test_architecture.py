"""The house rules that a reader relies on: which way imports point, where architectures are named, how long things are."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_SHIPPED = {"tests", "perf", "compat", "runs", "build", "dist"}
FOUNDATION = {
    "models",
    "data",
    "configs",
    "checkpoint",
    "layouts",
    "loading",
    "steps",
    "console",
    "errors",
    "shards",
    "streaming",
    "workplace",
    "__init__",
}
FOUR = {
    "compress": set(),
    "export": set(),
    "benchmarks": {"export"},
    "targets": {"export", "benchmarks"},
}
CONDUCTORS = {"pipeline", "planner", "forecast", "budget", "recipe", "ledger", "sweep", "delivery"}
ENDS = {
    "cli": {"cli_compress", "cli_device", "cli_evaluate", "verbs", "tables", "doctor", "demo"},
    "cli_compress": {"verbs", "tables"},
    "cli_device": {"verbs", "tables"},
    "cli_evaluate": {"verbs", "tables"},
    "verbs": {"tables"},
    "tables": set(),
    "doctor": set(),
    "demo": set(),
}
"""What only the command line calls, and which of each other they may use."""
PURE = {
    "errors": set(),
    "models": {"errors"},
    "data": {"errors"},
    "configs": {"errors", "models"},
    "layouts": {"errors", "configs"},
    "console": {"errors"},
    "shards": set(),
}
"""Parts of the foundation that stand by themselves."""
NAMES = re.compile(
    r"\b([qkvo]|qkv|gate|up|down|gate_up)_proj\b|\bself_attn\b|\bmlp\.|_layernorm\b|\bembed_tokens\b|\brotary_emb\b|\bmodel\.(layers|norm)\b"
    r"|\bblock_sparse_moe\b|\bshared_expert|\bnum_(local_)?experts\b"
)
"""How architectures call their parts."""
FILE_LINES, FUNCTION_LINES = 420, 60
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of the package (`compress.prune.cut`), parsed."""
    folders = [
        p
        for p in ROOT.iterdir()
        if p.is_dir() and p.name not in NOT_SHIPPED and not p.name.startswith(".")
    ]
    files = sorted(
        [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    )
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text())
        for file in files
    }


def part_of(module: str) -> str:
    """The top-level module or package that a dotted name is in."""
    return module.split(".")[0]


def imports(module: str, tree: ast.Module) -> Iterator[str]:
    """The modules of this package that a module imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                a.name.removeprefix("edgewright.")
                for a in node.names
                if part_of(a.name) == "edgewright"
            )
        if isinstance(node, ast.ImportFrom) and (
            node.level or part_of(node.module or "") == "edgewright"
        ):
            package = ["edgewright", *module.split(".")[: -node.level]] if node.level else []
            _, _, name = ".".join([*package, *([node.module] if node.module else [])]).partition(
                "."
            )
            yield from ([name] if name else (alias.name for alias in node.names))


@cache
def arrows() -> dict[str, set[str]]:
    """Module -> the parts of the package that it imports, itself left out."""
    return {
        m: {part_of(name) for name in imports(m, tree)} - {part_of(m)}
        for m, tree in sources().items()
    }


def allowed(part: str) -> set[str]:
    """What a part of the package may import."""
    versions = {"__version__", "__init__"}
    if part in PURE:
        return PURE[part] | versions
    if part in FOUNDATION:
        return FOUNDATION | versions
    if part in FOUR:
        return FOUNDATION | versions | FOUR[part]
    if part in CONDUCTORS:
        return FOUNDATION | versions | set(FOUR) | CONDUCTORS
    return FOUNDATION | versions | set(FOUR) | CONDUCTORS | ENDS[part]


def test_every_part_has_a_place() -> None:
    parts = {part_of(module) for module in sources()}
    assert parts == FOUNDATION | set(FOUR) | CONDUCTORS | set(ENDS)


def test_the_parser_sees_the_imports() -> None:
    assert arrows()["pipeline"] >= {"compress", "benchmarks", "export", "checkpoint", "errors"}
    assert "models" in arrows()["compress.prune.cut"]
    assert "tables" in arrows()["cli"]
    example = "from . import cut\nfrom ...models import Family\nfrom edgewright.errors import X\nimport edgewright.cli\nimport json"
    assert sorted(imports("compress.prune.runner", ast.parse(example))) == [
        "cli",
        "compress.prune",
        "errors",
        "models",
    ]


@pytest.mark.parametrize("part", sorted(FOUNDATION | set(FOUR) | CONDUCTORS | set(ENDS)))
def test_imports_point_one_way(part: str) -> None:
    wrong = {
        m: sorted(used - allowed(part))
        for m, used in arrows().items()
        if part_of(m) == part and used - allowed(part)
    }
    assert not wrong


def test_no_absolute_imports_of_ourselves() -> None:
    absolute = [
        f"{module}:{node.lineno}"
        for module, tree in sources().items()
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "edgewright"
        )
        or (
            isinstance(node, ast.Import)
            and any(a.name.split(".")[0] == "edgewright" for a in node.names)
        )
    ]
    assert not absolute


def told(tree: ast.Module) -> set[int]:
    """The ids of the constants that are docstrings: of modules, classes, functions and attributes."""
    owners = [
        node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | Function)
    ]
    return {
        id(s.value)
        for node in owners
        for s in node.body
        if isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)
    }


def literals(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and text of every string of a module that is no docstring."""
    skip = told(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skip:
            yield node.lineno, node.value


def test_architectures_are_named_in_models_only() -> None:
    named = {
        module: [f"{line}: {text!r}" for line, text in literals(tree) if NAMES.search(text)]
        for module, tree in sources().items()
    }
    assert named.pop("models.family")
    assert not {
        module: found for module, found in named.items() if found and part_of(module) != "models"
    }


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function of a module with its dotted name, methods and inner functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, Function):
                yield name, child
            yield from functions(child, f"{name}.")
        else:
            yield from functions(child, prefix)


def public(
    node: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, ast.ClassDef | Function]]:
    """Public classes, functions and methods; what is inside functions is nobody's business."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def test_everything_public_is_explained() -> None:
    silent = [
        f"{m}.{name}"
        for m, tree in sources().items()
        for name, node in public(tree)
        if not ast.get_docstring(node)
    ]
    silent += [m for m, tree in sources().items() if tree.body and not ast.get_docstring(tree)]
    assert not silent


def test_functions_are_annotated() -> None:
    bare = []
    for module, tree in sources().items():
        for name, node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [
                a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                bare.append(f"{module}.{name} {missing}")
    assert not bare


def test_functions_are_short() -> None:
    long = [
        f"{module}.{name}: {node.end_lineno - node.lineno + 1} lines"
        for module, tree in sources().items()
        for name, node in functions(tree)
        if node.end_lineno is not None and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert not long


def test_files_are_short() -> None:
    counts = {
        module: len((ROOT / f"{module.replace('.', '/')}.py").read_text().splitlines())
        for module in sources()
    }
    assert not {module: count for module, count in counts.items() if count > FILE_LINES}


def test_packages_are_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        ".".join(["edgewright", *module.split(".")[:-1]])
        for module in sources()
        if module.split(".")[-1] == "__init__"
    }
    assert sorted(found) == sorted(listed)
    folders = {".".join(["edgewright", *module.split(".")[:-1]]) for module in sources()}
    assert folders == found  # a folder of modules without __init__.py would not ship
