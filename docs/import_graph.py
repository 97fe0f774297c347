"""Which module of edgewright imports which, read from the source files without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {"tests", "perf", "compat", "docs", "examples", "runs", "build", "dist"}


@dataclass(frozen=True)
class Import:
    """One import statement between two modules of the package."""

    source: str
    """The module that imports, such as `compress.prune.cut`."""
    target: str
    """The module that is imported; a package is named by its `__init__`."""
    line: int
    typing_only: bool
    """True under `if TYPE_CHECKING:`, which never runs."""

    def __str__(self) -> str:
        """The file and line, and what is imported there."""
        return f"{self.source.replace('.', '/')}.py:{self.line} imports {self.target}"


def part_of(module: str) -> str:
    """The top-level file or package that a module is in: `compress` for `compress.prune.cut`."""
    return module.split(".")[0]


@cache
def sources() -> dict[str, ast.Module]:
    """Every module that ships, by its dotted name without `edgewright.`, parsed."""
    folders = [
        path
        for path in ROOT.iterdir()
        if path.is_dir() and path.name not in NOT_SHIPPED and not path.name.startswith(".")
    ]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): ast.parse(file.read_text())
        for file in sorted(files)
    }


def _is_typing_only(node: ast.AST) -> bool:
    """Whether this is an `if TYPE_CHECKING:` block."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _statements(
    node: ast.AST, typing_only: bool = False
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Every import statement below a node, and whether it is under `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, typing_only
        elif _is_typing_only(child) and isinstance(child, ast.If):
            yield from _statements(ast.Module(child.body, []), True)
            yield from _statements(ast.Module(child.orelse, []), typing_only)
        else:
            yield from _statements(child, typing_only)


def _resolve(name: str, known: frozenset[str]) -> str | None:
    """The module that holds a dotted name, or None where it is not ours."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in known:
            return module
        if f"{module}.__init__" in known:
            return f"{module}.__init__"
    return "__init__" if "__init__" in known else None


def _names(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The dotted names, without `edgewright.`, that one statement takes from the package."""
    if isinstance(node, ast.Import):
        absolute = [alias.name for alias in node.names]
    elif node.level:
        package = [*module.split(".")[: -node.level], *([node.module] if node.module else [])]
        absolute = [".".join(["edgewright", *package, alias.name]) for alias in node.names]
    else:
        absolute = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in absolute:
        first, _, rest = name.partition(".")
        if first == "edgewright":
            yield rest or "__init__"


def imports_of(module: str, tree: ast.Module, known: frozenset[str]) -> list[Import]:
    """The imports of one module, late ones (inside functions) too."""
    found = []
    for node, typing_only in _statements(tree):
        for name in _names(module, node):
            target = _resolve(name, known)
            if target and target != module:
                found.append(Import(module, target, node.lineno, typing_only))
    return found


@cache
def all_imports() -> tuple[Import, ...]:
    """Every import between two modules of the package."""
    known = frozenset(sources())
    return tuple(
        found for module, tree in sources().items() for found in imports_of(module, tree, known)
    )


def circles(imports: tuple[Import, ...]) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others (Tarjan 1972)."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        if not found.typing_only:
            graph.setdefault(found.source, set()).add(found.target)
            graph.setdefault(found.target, set())
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for target in sorted(graph[module]):
            if target not in order:
                visit(target)
            if target in stack:
                lowest[module] = min(lowest[module], lowest[target])
        if lowest[module] == order[module]:
            start = stack.index(module)
            groups.append(sorted(stack[start:]))
            del stack[start:]

    for module in sorted(graph):
        if module not in order:
            visit(module)
    return sorted(group for group in groups if len(group) > 1)
