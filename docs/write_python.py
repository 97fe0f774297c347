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

The main verbs are functions too. Their options are keywords with the same names and defaults:
`--group-size 64` is `group_size=64`.

```python
import edgewright as ew

ew.prune("MODEL", heads=0.25, calibration="text:wiki.txt", out="pruned")
ew.quantize("pruned", method="gptq", calibration="text:wiki.txt", out="int4")
result = ew.gate("new.json", baseline="main.json")
if not result.accepted:
    print(result)
```

`import edgewright` takes no time. What a function needs is imported when it is called, so `plan`
and `gate` work without torch ([Installation](install.md)).

## Arguments

Models, files and directories are texts or `pathlib.Path`. A list may be a list, or the text of the
command line: `tasks="reasoning,gym:arc"` or `tasks=["reasoning"]`.

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

## Results

A function returns what the verb prints with `--json`, as a dictionary. In a terminal its `repr` is
the verb's table. A notebook shows it as HTML tables, in which names from models and files are text
and never markup. Each kind has a few properties:

| function | result | properties |
| --- | --- | --- |
| `plan` | `Plan` | `rows` |
| `prune`, `distill`, `quantize`, `export` | `StepResult` | `output` (a path), `notes` |
| `bench` | `Measurement` | `metrics`, `context` |
| `gate` | `GateResult` | `verdict`, `accepted`, `checks` |
| `run` | `Run` | `steps`, `gate` |

A gate that fails, or a plan that a device refuses, is returned and not raised: look at `accepted`,
and at `refused` in a plan's rows. An interrupted call is resumed by the same call.

Everything else that goes wrong, and that one message can explain, is an `ew.EdgewrightError`.
Nothing ends the interpreter. The hint says what to do; it is in the error's notes too, so a
traceback shows both:

```python
try:
    ew.quantize("no-such-model", out="nowhere")
except ew.EdgewrightError as error:
    print(error, error.hint, error.exit_code)
```

A keyword that does not exist is a `TypeError`, as in any function.

## Types and notebooks

The package has types (`py.typed`), made from the options: an editor completes keywords and choices
and shows their help, and pyright or mypy finds `method="gtpq"` before anything runs.

The notebooks in `examples/` are run by the tests:

| notebook | what it does |
| --- | --- |
| `compress.ipynb` | prune, quantize and export the built-in model, and look at what it costs |
| `gate.ipynb` | decide whether a model is worse, with a policy, as Markdown and as a badge |
| `plan.ipynb` | which board runs a model, from its configuration alone |

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
