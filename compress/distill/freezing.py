"""Parameters that do not learn in a stage, chosen by patterns of their names (`model.embed_tokens*`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ...errors import UsageError

__all__ = ["frozen"]


def frozen(student: Any, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of a student that a stage leaves as they are.

    Args:
        student: the causal language model, with adapters or a grid if it learns so.
        patterns: for their names as files have them, in which `*` stands for anything; a tied head is the embedding.

    Raises:
        UsageError: no parameter has such a name, or none is left to learn.
    """
    if not patterns:
        return []
    named = [(_in_files(name), p) for name, p in student.named_parameters(remove_duplicate=False)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name, _ in named)
            raise UsageError(
                f"freeze `{pattern}`: no parameter of the student has such a name",
                f"there are {', '.join(kinds)}",
            )
    still = [p for name, p in named if any(fnmatchcase(name, pattern) for pattern in patterns)]
    stays = {id(p) for p in still}
    if all(id(p) in stays for _, p in named if p.requires_grad):
        raise UsageError(
            f"freeze {', '.join(patterns)}: nothing of the student is left to learn", "freeze less"
        )
    return still


def _in_files(name: str) -> str:
    """A parameter's name without what adapters and grids put into it."""
    return name.replace(".base_layer.", ".").replace(".parametrizations.weight.original", ".weight")
