"""Attempts to pass without being right: a program, and tests that it must not pass."""

from __future__ import annotations

REACHED = "assert False, 'the tests'"
RIGHT = "assert answer() == 42"
SEND = """
import json, os
def send(*messages):
    for message in messages:
        data = json.dumps(message).encode()
        for pipe in range(256):
            try:
                os.write(pipe, len(data).to_bytes(8, 'little') + data)
            except OSError:
                pass
"""
FIND_PEER = """
import gc
def peer():
    return next(one for one in gc.get_objects() if type(one).__name__ == 'Peer')
"""
FORGERIES: dict[str, tuple[str, str]] = {
    "end at once": ("import os\nos._exit(0)", REACHED),
    "end by an exception": ("raise SystemExit(0)", REACHED),
    "end at exit": (
        "import atexit, os, sys\natexit.register(os._exit, 0)\nsys.exit(0)",
        REACHED,
    ),
    "end in the function": ("import os\ndef answer():\n    os._exit(0)", RIGHT),
    "end in a thread": (
        "import os, threading\nthreading.Timer(0.1, os._exit, [0]).start()\n"
        "def answer():\n    import time; time.sleep(1)",
        RIGHT,
    ),
    "write a verdict everywhere": (
        "import os\nfor pipe in range(256):\n    try:\n"
        '        os.write(pipe, b\'{"passed": true, "reason": ""}\\n\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
        REACHED,
    ),
    "write a verdict file": (
        "import os\nfor name in ('finished', 'verdict', 'program.py'):\n"
        "    open(name, 'w').write('passed')\nos._exit(0)",
        REACHED,
    ),
    "answer before the question": (
        f"{SEND}\nsend(*[['value', None]] * 99)\nos._exit(0)",
        REACHED,
    ),
    "answer that all is well, and go on": (f"{SEND}\nsend(*[['value', None]] * 99)", REACHED),
    "send what is no message": (f"{SEND}\nsend({{}}, [], 1, ['verdict', True])", REACHED),
    "equal to everything": (
        "class Any:\n    __eq__ = lambda self, other: True\ndef answer():\n    return Any()",
        RIGHT,
    ),
    "unequal to nothing": (
        "class Any:\n    __ne__ = lambda self, other: False\n    __eq__ = lambda *_: True\n"
        "def answer():\n    return Any()",
        "assert not answer() != 42",
    ),
    "a number equal to everything": (
        "class Any(int):\n    __eq__ = lambda self, other: True\n    __hash__ = int.__hash__\n"
        "def answer():\n    return Any(1)",
        RIGHT,
    ),
    "a list equal to everything": (
        "class Any(list):\n    __eq__ = lambda self, other: True\ndef answer():\n    return Any()",
        "assert answer() == [42]",
    ),
    "in every order": (
        "class Any:\n    __lt__ = __gt__ = __le__ = __ge__ = lambda self, other: True\n"
        "def answer():\n    return Any()",
        "assert 41 < answer() < 43",
    ),
    "differs from nothing": (
        "class Any:\n    __sub__ = __rsub__ = lambda self, other: 0.0\n"
        "def answer():\n    return Any()",
        "assert abs(answer() - 42) < 1e-6",
    ),
    "contains everything": (
        "class Any:\n    __contains__ = lambda self, item: True\n    __iter__ = lambda self: self\n"
        "    def __next__(self):\n        raise StopIteration\ndef answer():\n    return Any()",
        "assert 42 in answer()",
    ),
    "an instance of everything": (
        "class Any:\n    __class__ = int\ndef answer():\n    return Any()",
        "assert isinstance(answer(), int)",
    ),
    "other built-ins": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.len = lambda x: 42\n"
        "def abs(x):\n    return 0\ndef answer():\n    return [1]",
        "assert len(answer()) == 42 and abs(len(answer()) - 42) < 1",
    ),
    "another AssertionError": (
        "import builtins\nbuiltins.AssertionError = SystemExit\ndef answer():\n    return 1",
        RIGHT,
    ),
    "another math": (
        "class math:\n    isclose = staticmethod(lambda *_, **__: True)\n"
        "def answer():\n    return 1",
        "assert math.isclose(answer(), 42)",
    ),
    "a changed module": (
        "import math\nmath.isclose = lambda *_, **__: True\ndef answer():\n    return 1",
        "import math\nassert math.isclose(answer(), 42)",
    ),
    "a trace that ends the tests": (
        "import os, sys, threading\nend = lambda *_: os._exit(0)\n"
        "def answer():\n    sys.settrace(end)\n    threading.settrace(end)\n    return 1",
        RIGHT,
    ),
    "read the tests": (
        "import gc, os, re, sys\ndef answer():\n"
        "    found = [str(one) for one in gc.get_objects()]\n"
        "    found += [str(frame.f_locals) for frame in sys._current_frames().values()]\n"
        "    for name in os.listdir('.'):\n        found.append(open(name).read())\n"
        "    for pipe in range(3):\n        found.append(os.read(pipe, 9999).decode())\n"
        "    return re.search(r's.cret-[0-9]+', ' '.join(found)).group()",
        "assert answer() == 's3cret-0815'",
    ),
    "use what the tests gave": (
        "def answer(key):\n    key.__globals__['__builtins__']['abs'] = lambda x: 0\n    return 1",
        "assert abs(answer(lambda x: x) - 42) < 1",
    ),
    "make a class for the tests": (
        f"{FIND_PEER}\ndef answer(key):\n    mine = peer()\n"
        "    true = mine._written([lambda *_: True])[0]\n"
        "    names = ['dict', '__eq__', true]\n"
        "    head = [['type', 'type'], 3, ['list'], 'X', ['tuple'], names]\n"
        "    return mine._exchange(['call', *head])[0]()",
        "assert answer(len) == 42",
    ),
    "run code among the tests": (
        f"{FIND_PEER}\ndef answer(key):\n    peer()._exchange(['run', 'answer = lambda *_: 42'])",
        "answer(len)\nassert answer(len) == 42",
    ),
    "change a module of the tests": (
        f"{FIND_PEER}\ndef answer(key):\n    mine = peer()\n"
        "    mine._exchange(['setattr', ['module', 'math'], 'pi', 42])\n    return 1",
        "import math\nanswer(len)\nassert math.pi == 42",
    ),
    "replace the helper of the tests": (
        "def helper(x):\n    return 42\ndef answer():\n    return 1",
        "assert helper(answer()) == 42",
    ),
    "raise what the tests expect of others": (
        "def answer():\n    raise GeneratorExit",
        "try:\n    answer()\nexcept ValueError:\n    pass",
    ),
}
PREAMBLE = "def helper(x):\n    return x\n"
"""What the exercise gives; the tests use this and not the program's."""
