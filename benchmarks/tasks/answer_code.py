"""What tests and the code of an answer need of each other.

Of an answer, tests need functions, and what these use. Models add their own checks and examples
behind a function. Those may be wrong where the function is right, so they are not run. Published
scores are measured likewise (Liu et al. 2023, EvalPlus).
"""

from __future__ import annotations

import ast
import builtins
import sys

__all__ = [
    "asked_names",
    "defined_names",
    "needed_code",
    "own_imports",
    "split_tests",
    "wanted_names",
]

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


def wanted_names(tests: str) -> set[str]:
    """The names that tests take from elsewhere; not their own variables."""
    parts = [part for node in _parsed(tests) for part in ast.walk(node)]
    stored = {p.id for p in parts if isinstance(p, ast.Name) and isinstance(p.ctx, ast.Store)}
    own = stored.union(part.arg for part in parts if isinstance(part, ast.arg))
    return set(asked_names(tests, "")) - own


def defined_names(code: str) -> set[str]:
    """The names that code defines, outside of its functions and classes."""
    return {word for node in _parsed(code) for word in _names_of(node)}


def split_tests(program: str) -> tuple[str, str]:
    """Split a program into its code and its tests.

    Tests are the assertions at its end, or a last call of a function `check` and what follows the
    definition of that function. There may be none.
    """
    try:
        body = ast.parse(program).body
        start = len(body)
        while start and isinstance(body[start - 1], ast.Assert):
            start -= 1
        match body[-1:]:
            case [ast.Expr(ast.Call(ast.Name("check")))]:
                checks = [at for at, node in enumerate(body) if "check" in _names_of(node)]
                start = checks[-1] if checks else start
        parts = body[:start], body[start:]
        return ast.unparse(ast.Module(parts[0], [])), ast.unparse(ast.Module(parts[1], []))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program, ""


def asked_names(tests: str, preamble: str) -> list[str]:
    """The names that tests use and that neither they, the preamble nor Python define.

    Tests that use only built-in names mean the code's own functions of these names, such as `sum`.
    """
    body = [*_parsed(preamble), *_parsed(tests)]
    bound = {word for node in body for word in _names_of(node)}
    used = dict.fromkeys(word for node in _parsed(tests) for word in _used(node))
    free = [word for word in used if word not in bound]
    return [word for word in free if not hasattr(builtins, word)] or free


def own_imports(tests: str, preamble: str) -> list[str]:
    """Modules of the standard library that tests use without importing them, as `math.pi`."""
    asked = asked_names(tests, preamble)
    parts = [part for node in _parsed(tests) for part in ast.walk(node)]
    bases = [part.value for part in parts if isinstance(part, ast.Attribute)]
    words = dict.fromkeys(base.id for base in bases if isinstance(base, ast.Name))
    return [word for word in words if word in asked and word in sys.stdlib_module_names]


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
