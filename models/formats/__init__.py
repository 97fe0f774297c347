"""The export formats, one small file for each.

A file joins by being here: it defines `FORMAT`, and nothing else has to name it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..export_format import ExportFormat

__all__ = ["FORMATS", "PORTABLE"]


def _discovered() -> dict[str, ExportFormat]:
    found: list[ExportFormat] = [
        import_module(f".{module.name}", __name__).FORMAT for module in iter_modules(__path__)
    ]
    ordered = sorted(found, key=lambda format: (format.position, format.name))
    return {format.name: format for format in ordered}


FORMATS = _discovered()
"""By the name that `--format` takes, in the order of the help."""
PORTABLE = next(iter(FORMATS))
"""The format that most runtimes read; `export` writes it unless another is asked for."""
