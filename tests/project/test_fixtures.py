"""Fixtures of plugins (`pytest_plugins`) are seen by all tests, so their names must not clash."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_plugins_have_a_fixture_of_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in sorted(TESTS.rglob("*_fixtures.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and any(
                "fixture" in ast.unparse(decorator) for decorator in node.decorator_list
            ):
                places[node.name].append(file.name)
    assert len(places) > 10
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
