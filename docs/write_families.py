"""Writes docs/families.md: every family of models, from the files that describe them.

Run `python -m edgewright.docs.write_families` after adding a family.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..models import FAMILIES, families
from ..models.llama_cpp import CANDIDATES
from ..models.mixture import Mixture

__all__ = ["FILE", "page"]

FILE = Path(__file__).with_name("families.md")
HEAD = """\
# Families of models

This page is written by `python -m edgewright.docs.write_families` from `models/families/`; do not
edit it. A family is known by the `model_type` of its config.json. All can be planned, pruned,
distilled, quantized and measured. Dense families can be exported to `onnx`, `ort`, `tensorrt` and
`triton`; to `gguf` where llama.cpp has the architecture. What a single model has beyond that is
refused with a reason by `edgewright plan MODEL --target T` and by the export itself.

| `model_type` | what is special | llama.cpp | exported |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_row(name) for name in sorted(FAMILIES))


def _row(name: str) -> str:
    module = import_module(f"{families.__name__}.{name}")
    first = (module.__doc__ or "").partition("\n")[0].replace("|", "\\|")
    architectures = dict.fromkeys(candidate.name for candidate in CANDIDATES.get(name, ()))
    known = ", ".join(f"`{one}`" for one in architectures)
    exported = "no" if isinstance(FAMILIES[name], Mixture) else "yes"
    return f"| `{name}` | {first} | {known} | {exported} |\n"


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
