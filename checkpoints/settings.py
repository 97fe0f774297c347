"""A config.json as transformers understands it. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..documents import in_hand
from ..errors import UsageError
from ..models import WRAPPED_IN
from .config import read_config

__all__ = ["load_settings", "reason"]


def load_settings(path: Path) -> Any:
    """The config as transformers reads it, with the defaults of the architecture filled in.

    Of a wrapper, this is the config of the text model in it.
    It has no quantization block, and its tied weights are those of the files; see `read_config`.

    Raises:
        UsageError: transformers refuses it.
    """
    from transformers import AutoConfig  # late: slow to import

    with in_hand(path / "config.json"):
        config = read_config(path)
    try:
        settings: Any = (
            AutoConfig.for_model(**{k: v for k, v in config.items() if k != WRAPPED_IN})
            if config.get(WRAPPED_IN)
            else AutoConfig.from_pretrained(path, trust_remote_code=False)
        )
    except Exception as error:  # huggingface_hub and transformers have no common base for theirs
        raise UsageError(
            f"{path}/config.json: transformers cannot read it: {reason(error)}",
            "restore the config.json",
        ) from error
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    if config.get("tie_word_embeddings") is False:
        settings.tie_word_embeddings = False
    return settings


def reason(error: BaseException) -> str:
    """The last line of a library's message, which says what is wrong, or the kind of the error."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
