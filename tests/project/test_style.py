"""House style: how long files, functions and lines are; docstrings and annotations."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from edgewright.docs.import_graph import ROOT, sources

FILE_LINES = 350
FUNCTION_LINES = 50
LINE_COLUMNS = 100
NOT_OURS = {"runs", "build", "dist"}
FORMATTER_OFF = ("# fmt" + ": skip", "# fmt" + ": off")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def python_files() -> dict[str, str]:
    """Every Python file of the repository, tests and perf/ too: path -> text."""
    files = (
        file
        for file in sorted(ROOT.rglob("*.py"))
        if not any(
            part in NOT_OURS or part.startswith(".") for part in file.relative_to(ROOT).parts
        )
    )
    return {file.relative_to(ROOT).as_posix(): file.read_text() for file in files}


def listed(offenders: list[str]) -> str:
    """All offenders in one message, one a line."""
    return f"{len(offenders)} offenders:\n  " + "\n  ".join(offenders)


def functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function below a node with its dotted name, methods and inner functions too."""
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
    """Public classes, functions and methods; what is inside a function is private."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | Function) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


def test_all_files_are_looked_at() -> None:
    folders = {Path(path).parts[0] for path in python_files()}
    assert folders >= {"tests", "perf", "demo", "docs", "compress", "cli.py"}


def test_files_are_short() -> None:
    counts = {path: len(text.splitlines()) for path, text in python_files().items()}
    long = [f"{path}: {count} lines" for path, count in counts.items() if count > FILE_LINES]
    assert not long, listed(long)


def test_every_package_says_what_it_is_for() -> None:
    packages = {path: text for path, text in python_files().items() if path.endswith("__init__.py")}
    assert len(packages) > 20
    silent = [path for path, text in packages.items() if not ast.get_docstring(ast.parse(text))]
    assert not silent, listed(silent)


def test_functions_are_short() -> None:
    long = []
    for path, text in python_files().items():
        for name, node in functions(ast.parse(text)):
            count = (node.end_lineno or node.lineno) - node.lineno + 1
            if count > FUNCTION_LINES:
                long.append(f"{path}:{node.lineno} {name}: {count} lines")
    assert not long, listed(long)


def test_lines_are_short() -> None:
    long = [
        f"{path}:{number}: {len(line)} columns"
        for path, text in python_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE_COLUMNS
    ]
    assert not long, listed(long)


def test_the_formatter_is_never_switched_off() -> None:
    off = [
        f"{path}:{number}"
        for path, text in python_files().items()
        for number, line in enumerate(text.splitlines(), 1)
        if any(mark in line for mark in FORMATTER_OFF)
    ]
    assert not off, listed(off)


def test_everything_public_is_explained() -> None:
    silent = [
        f"{module}.{name}"
        for module, tree in sources().items()
        for name, node in public(tree)
        if not ast.get_docstring(node)
    ]
    silent += [m for m, tree in sources().items() if tree.body and not ast.get_docstring(tree)]
    assert not silent, listed(silent)


def test_functions_are_annotated() -> None:
    bare = []
    for module, tree in sources().items():
        for name, node in functions(tree):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [
                argument.arg
                for argument in arguments
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                bare.append(f"{module}.{name} {missing}")
    assert not bare, listed(bare)
