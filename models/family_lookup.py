"""Finds the family that a config.json names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Refused, UsageError
from .families import FAMILIES
from .family import Family
from .wrappers import WRAPPERS

__all__ = ["EmbeddingAndHead", "embedding_and_head", "family_of"]


def family_of(config: Mapping[str, Any], where: str = "config.json") -> Family:
    """The family that a config.json names.

    Args:
        config: the parsed config.json.
        where: its name in messages.

    Raises:
        UsageError: it names none.
        Refused: the family is not supported.
    """
    name = config.get("model_type")
    if not name:
        raise UsageError(
            f"{where}: no `model_type`, so the architecture is unknown",
            "use a Hugging Face model directory",
        )
    if not isinstance(name, str) or name not in FAMILIES:
        custom = config.get("auto_map")
        code = ", and code that comes with a checkpoint (`auto_map`) is never run" if custom else ""
        raise Refused(
            f"{where}: architecture `{name}` is not supported{code}",
            f"supported: {', '.join(sorted([*FAMILIES, *WRAPPERS]))}",
        )
    return FAMILIES[name]


@dataclass(frozen=True)
class EmbeddingAndHead:
    """The token embedding and the head that makes logits, by their full names in files.

    Attributes:
        embedding: name of the embedding.
        head: name of the head.
        tied: whether config.json says that the two share one weight.
        logit_scale: what logits are multiplied by.
        logit_softcap: a tanh limits logits to ± this value; None: no limit.
    """

    embedding: str
    head: str
    tied: bool
    logit_scale: float = 1.0
    logit_softcap: float | None = None


def embedding_and_head(config: Mapping[str, Any]) -> EmbeddingAndHead:
    """Embedding and head of any model; in an unsupported family they have the usual names."""
    name = str(config.get("model_type"))
    family = FAMILIES.get(name) or Family(name, defaults={"tie_word_embeddings": True})
    tied = bool(family.completed(config).get("tie_word_embeddings"))
    scale, cap = family.logit_scale(config), family.softcap(config, "final_logit_softcapping")
    return EmbeddingAndHead(family.embedding, family.head, tied, scale, cap)
