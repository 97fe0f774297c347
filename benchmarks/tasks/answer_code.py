"""The code of an answer that its tests need: functions, and what these use.

Models add their own checks and examples behind a function. Those may be wrong where the function is
right, so they are not run. Published scores are measured likewise (Liu et al. 2023, EvalPlus).
"""

from __future__ import annotations

import ast

__all__ = ["needed_code"]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def needed_code(code: str, tests: str) -> str:
    """Imports, what the tests name of the code's definitions, and what these definitions use.

    Lines at the end that do not parse are dropped first: an answer that was cut off may have
    finished the function. Code that defines nothing of what the tests name is returned as it is.
    """
    body = _parsed(code)
    defined: dict[str, list[ast.stmt]] = {}
    for node in body:
        for word in _names_of(node):
            defined.setdefault(word, []).append(node)
    waiting = [word for node in _parsed(tests) for word in _used(node) if word in defined]
    if not waiting:
        return code
    needed = set[str]()
    while waiting:
        word = waiting.pop()
        if word in needed or word not in defined:
            continue
        needed.add(word)
        waiting += [other for node in defined[word] for other in _used(node)]
    kept = [
        node
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom) or not needed.isdisjoint(_names_of(node))
    ]
    return ast.unparse(ast.Module(kept, []))


def _parsed(code: str) -> list[ast.stmt]:
    """The statements of the longest beginning that parses, line by line."""
    lines = code.splitlines()
    while lines:
        try:
            return ast.parse("\n".join(lines)).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            lines.pop()
    return []


def _used(node: ast.AST) -> list[str]:
    """The names in a piece of code."""
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]


def _names_of(node: ast.stmt) -> list[str]:
    """The names that a statement defines: of a function, a class, imports, or variables.

    A `try` defines what is in it: packages that may be missing are imported so.
    """
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).partition(".")[0] for alias in node.names]
    if isinstance(node, ast.Try):
        parts = [*node.body, *(part for handler in node.handlers for part in handler.body)]
        return [word for part in parts for word in _names_of(part)]
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    else:
        return []
    return [word for target in targets for word in _used(target)]
