"""Exports of a checkpoint: ONNX, TensorRT, GGUF, Triton.

The package is also a function, `ew.export(model, out=...)`, as the other verbs are.
"""

import sys
from types import ModuleType
from typing import Any

from .. import verb_function


class _CallablePackage(ModuleType):
    """A package that can be called like the verb of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return verb_function("export")(*arguments, **options)

    @property
    def __signature__(self) -> Any:
        return verb_function("export").__signature__


sys.modules[__name__].__class__ = _CallablePackage
