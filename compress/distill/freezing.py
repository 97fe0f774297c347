"""Parameters that a stage does not train, chosen by name patterns such as `model.embed_tokens*`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ...errors import UsageError

__all__ = ["frozen_parameters"]


def frozen_parameters(student: Any, patterns: Sequence[str]) -> list[nn.Parameter]:
    """Return the parameters of a student that a stage does not train.

    Args:
        student: the causal language model, with adapters or fake quantization if it has them.
        patterns: for parameter names as in checkpoint files; `*` matches anything. A tied head
            counts as the embedding.

    Raises:
        UsageError: a pattern matches no parameter, or nothing is left to train.
    """
    if not patterns:
        return []
    named = [
        (_stored_name(name), p) for name, p in student.named_parameters(remove_duplicate=False)
    ]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            kinds = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name, _ in named)
            raise UsageError(
                f"freeze `{pattern}`: no parameter of the student has such a name",
                f"there are {', '.join(kinds)}",
            )
    frozen = [p for name, p in named if any(fnmatchcase(name, pattern) for pattern in patterns)]
    frozen_ids = {id(p) for p in frozen}
    if all(id(p) in frozen_ids for _, p in named if p.requires_grad):
        raise UsageError(
            f"freeze {', '.join(patterns)}: nothing of the student is left to train", "freeze less"
        )
    return frozen


def _stored_name(name: str) -> str:
    """Return a parameter's name without the parts that adapters and fake quantization add."""
    return name.replace(".base_layer.", ".").replace(".parametrizations.weight.original", ".weight")
