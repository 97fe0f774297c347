"""What honest programs do in the sandbox, in every confinement, and what reaches their tests."""

from __future__ import annotations

import pytest

from edgewright.benchmarks.tasks.answer_code import asked_names, own_imports, split_tests
from edgewright.benchmarks.tasks.sandbox import Confiner, run_program

HONEST: dict[str, tuple[str, str]] = {
    "numbers": (
        "def f(x):\n    return x * 10**400, -0.0, 1e308 * 10, 2j, True, None",
        "a, b, c, d, e, g = f(7)\nassert a == 7 * 10**400 and str(b) == '-0.0'\n"
        "assert c == float('inf') and d == 2j and e is True and g is None",
    ),
    "containers": (
        "def f(x):\n    return [{1: (x, {2, 3})}, frozenset([b'\\xff']), '\\ud800', range(3)]",
        "assert f([4]) == [{1: ([4], {2, 3})}, frozenset([b'\\xff']), '\\ud800', range(3)]",
    ),
    "subclasses of built-in types": (
        "import collections, enum\nclass Mode(enum.IntEnum):\n    ON = 1\n"
        "P = collections.namedtuple('P', 'x y')\n"
        "def f():\n    return Mode.ON, P(1, 2), collections.defaultdict(list, {1: [2]})",
        "assert f() == (1, (1, 2), {1: [2]})",
    ),
    "types of the standard library": (
        "from collections import Counter, OrderedDict, deque\nfrom datetime import date, datetime\n"
        "from decimal import Decimal\nfrom fractions import Fraction\ndef f():\n"
        "    return [Counter('aab'), OrderedDict(a=1), deque([1], 2), date(2024, 2, 29),"
        " datetime(2024, 2, 29, 1, 2), Decimal('0.10'), Fraction(1, 3)]",
        "a, b, c, d, e, g, h = f()\nassert a.most_common(1) == [('a', 2)] and list(b) == ['a']\n"
        "assert c.maxlen == 2 and d.isoformat() == '2024-02-29' and e.minute == 2\n"
        "assert str(g) == '0.10' and h.denominator == 3",
    ),
    "iterators": (
        "def f(n):\n    yield from range(n)\ndef g(n):\n    return map(str, range(n))",
        "assert list(f(3)) == [0, 1, 2]\nassert next(f(1)) == 0\nassert ''.join(g(3)) == '012'",
    ),
    "arguments changed in place": (
        "def f(x, y):\n    x.sort()\n    y['done'] = True",
        "x, y = [3, 1, 2], {}\nassert f(x, y=y) is None\n"
        "assert x == [1, 2, 3] and y == {'done': True}",
    ),
    "errors": (
        "class Odd(ValueError):\n    pass\ndef f(x):\n    if x:\n        raise Odd('odd', x)\n"
        "    return {}['key']",
        "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n"
        "    assert error.args == ('odd', 1)\n"
        "try:\n    f(0)\n    assert False\nexcept KeyError as error:\n"
        "    assert error.args == ('key',)",
    ),
    "functions that the tests give": (
        "def f(items, key):\n    return sorted(items, key=key)",
        "assert f([1, -3, 2], lambda x: -x) == [2, 1, -3]\n"
        "assert f(['bb', 'a'], len) == ['a', 'bb']",
    ),
    "objects that the tests give": (
        "def f(node):\n    total = 0\n    while node is not None:\n        total += node.value\n"
        "        node = node.next\n    return total",
        "class Node:\n    def __init__(self, value, next=None):\n        self.value = value\n"
        "        self.next = next\nassert f(Node(1, Node(2))) == 3",
    ),
    "classes": (
        "class Point:\n    def __init__(self, x, y=0):\n        self.x, self.y = x, y\n"
        "    def __eq__(self, other):\n        return (self.x, self.y) == (other.x, other.y)\n"
        "    def __add__(self, other):\n        return Point(self.x + other.x, self.y + other.y)\n"
        "    def __repr__(self):\n        return f'Point({self.x}, {self.y})'\n"
        "    def __len__(self):\n        return self.x\n",
        "p = Point(1, y=2)\nassert p == Point(1, 2) and p != Point(2, 1)\nassert (p + p).x == 2\n"
        "assert repr(p) == 'Point(1, 2)' and len(p) == 1 and isinstance(p, Point)\np.x = 5\n"
        "assert len(p) == 5",
    ),
    "names that are built in too": ("def sum(a, b):\n    return a + b", "assert sum(1, 2) == 3"),
    "helpers and modules for the tests": (
        "import math\ndef f(x):\n    return math.sqrt(x)\ndef half(x):\n    return x / 2",
        "assert math.isclose(half(f(16)), 2.0)\nassert f(4) == 2",
    ),
    "dataclasses, types, threads and asyncio": (
        "import asyncio, tempfile, threading\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Pair:\n    a: 'int'\n    b: list\n"
        "async def slow():\n    await asyncio.sleep(0.01)\n    return 3\n"
        "def f():\n    done = []\n    threads = [threading.Thread(target=done.append, args=(n,))"
        " for n in range(4)]\n    [t.start() for t in threads]\n    [t.join() for t in threads]\n"
        "    with tempfile.TemporaryFile() as file:\n        file.write(b'x')\n"
        "    return sorted(done), asyncio.run(slow()), Pair(1, []).a",
        "assert f() == ([0, 1, 2, 3], 3, 1)",
    ),
    "files of its own": (
        "import os, shutil\ndef f():\n    open('a', 'w').write('x')\n    os.rename('a', 'b')\n"
        "    os.mkdir('d')\n    os.rename('b', 'd/c')\n    return open('d/c').read(), os.listdir()",
        "assert f() == ('x', ['d'])",
    ),
    "recursion": (
        "def f(n):\n    return n and 1 + f(n - 1)",
        "assert f(900) == 900\ntry:\n    f(5000)\n    assert False\n"
        "except RecursionError:\n    pass",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str, confiner: Confiner) -> None:
    program, tests = HONEST[name]
    outcome = run_program(program, 5.0, tests, confiner=confiner)
    assert outcome.passed, outcome.reason


@pytest.mark.parametrize("name", HONEST)
def test_and_would_fail_other_tests(name: str) -> None:
    program, tests = HONEST[name]
    changed = tests.replace("==", "!=", 1)
    assert not run_program(program, 5.0, changed).passed


@pytest.mark.parametrize(
    ("program", "code", "tests"),
    [
        ("x = 1\nassert x\nassert x == 1", "x = 1", "assert x\nassert x == 1"),
        ("assert x\ny = 2", "assert x\ny = 2", ""),
        ("def f():\n    assert f\n", "def f():\n    assert f", ""),
        (
            "x = 1\ndef check(c):\n    assert c\ncheck(x)",
            "x = 1",
            "def check(c):\n    assert c\ncheck(x)",
        ),
        ("def check(c:", "def check(c:", ""),
    ],
)
def test_where_the_tests_of_a_program_begin(program: str, code: str, tests: str) -> None:
    assert split_tests(program) == (code, tests)


@pytest.mark.parametrize(
    ("tests", "preamble", "names", "imports"),
    [
        ("assert abs(f(2)) == 1", "", ["f"], []),
        ("assert sum(1, 2) == 3", "", ["sum"], []),
        ("assert poly(f(2)) == 1", "def poly(x):\n    return x", ["f"], []),
        ("assert math.isclose(f(2), 1)", "", ["math", "f"], ["math"]),
        ("import math\nassert math.isclose(f(2), 1)", "", ["f"], []),
    ],
)
def test_what_tests_ask_of_a_program(
    tests: str, preamble: str, names: list[str], imports: list[str]
) -> None:
    assert sorted(asked_names(tests, preamble)) == sorted(names)
    assert own_imports(tests, preamble) == imports
