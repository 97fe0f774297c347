"""edgewright: make a Hugging Face language model fit, and run well, on an NVIDIA Jetson Orin.

`import edgewright as ew` offers the verbs of the command line as functions: `ew.plan`, `ew.prune`,
`ew.distill`, `ew.quantize`, `ew.export`, `ew.bench`, `ew.gate` and `ew.run`, and `EdgewrightError`,
which they raise. They are imported when they are first used. This file also runs on devices, where
only numpy and onnxruntime are installed. The types are in `__init__.pyi`.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

__version__ = "0.2.0"

_FUNCTIONS = ("bench", "distill", "gate", "plan", "prune", "quantize", "run")
"""`export` is missing here: the package of that name is callable itself."""


def verb_function(name: str) -> _Any:
    """The Python function of a verb."""
    return getattr(_import_module(".commands.api", __name__), name)


def __getattr__(name: str) -> _Any:
    if name == "export":
        return _import_module(".export", __name__)
    if name in _FUNCTIONS:
        return verb_function(name)
    if name == "EdgewrightError":
        return _import_module(".errors", __name__).EdgewrightError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS, "export", "EdgewrightError"])
