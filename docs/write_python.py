"""Writes docs/python.md: the verbs as functions, from their docstrings and signatures.

Run `python -m edgewright.docs.write_python` after a change of the Python functions or the errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import errors
from ..commands import api
from .write_reference import wrapped

__all__ = ["FILE", "page"]

FILE = Path(__file__).with_name("python.md")
HEAD = """\
# Python

This page is written by `python -m edgewright.docs.write_python` from the functions; do not edit it.

The main verbs are functions too. Their options are keywords under the names of the command line:
`--group-size 64` is `group_size=64`. They return what the verb prints with `--json`:

```python
import edgewright as ew

ew.prune("MODEL", heads=0.25, calibration="text:wiki.txt", out="pruned")
ew.quantize("pruned", method="gptq", calibration="text:wiki.txt", out="int4")
result = ew.gate("new.json", baseline="main.json")
print(result["verdict"])
```

A nested part of a [recipe](recipe.md) may be passed whole:

```python
recovered = ew.distill(
    "pruned",
    teacher="MODEL",
    data="text:wiki.txt",
    stages=[{"loss": "logits", "steps": 2}],
    out="recovered",
)
```

A gate that fails, or a plan that a device cannot run, is returned and not raised. Everything else
that goes wrong is an exception of `edgewright.errors` with the attributes `hint` (what to type) and
`exit_code`:

```python
from edgewright.errors import UsageError

try:
    ew.quantize("no-such-model", out="nowhere")
except UsageError as error:
    print(error, error.hint, error.exit_code)
```

An exported artifact runs without torch: see
[ONNX Runtime](runtimes/onnx-runtime.md#in-python-without-torch).
"""


def page() -> str:
    """The page as Markdown."""
    functions = [_function(name, getattr(api, name)) for name in sorted(api.__all__)]
    return "\n".join([HEAD, "## Functions\n", *functions, "## Errors\n", _errors(), ""])


def _function(name: str, function: Callable[..., Any]) -> str:
    """The section of one function."""
    summary = (function.__doc__ or "").partition("\nArgs:")[0].strip()
    parameters = inspect.signature(function).parameters.values()
    positional = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    needed = [
        f"{one.name}=..."
        for one in parameters
        if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    ]
    call = ", ".join([*positional, *needed, "**options"])
    options = f"Options: [edgewright {name}](reference.md#edgewright-{name})."
    return f"### `ew.{name}({call})`\n\n{wrapped(summary)}\n\n{options}\n"


def _errors() -> str:
    """The table of exceptions, with what each of them means."""
    rows = ["| exception | exit code | when |", "| --- | --- | --- |"]
    for name in sorted(errors.__all__, key=lambda name: (getattr(errors, name).exit_code, name)):
        kind = getattr(errors, name)
        first = (kind.__doc__ or "").partition("\n")[0]
        rows.append(f"| `{name}` | {kind.exit_code} | {first} |")
    return "\n".join(rows)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
