"""Models of the Hugging Face hub: what a hub id is, and which of its files are fetched."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError

__all__ = ["fetch", "is_hub_id"]

CONFIG_FILES = ("config.json", "hf_quant_config.json", "adapter_config.json")
"""All that a plan reads."""
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
SECOND_COPIES = ("*/*.safetensors", "consolidated*.safetensors")
"""Weights that are no part of what transformers loads; some models have them twice."""


def is_hub_id(model: str) -> bool:
    """Whether a name that is no directory can be a hub id: `org/name`, perhaps `@revision`."""
    name = model.partition("@")[0]
    return not model.startswith((".", "/", "~")) and name.count("/") == 1 and ":" not in name


def fetch(model: str, *, config_only: bool = False) -> Path:
    """The files of a hub id, downloaded into the cache of the package huggingface_hub.

    `HF_HOME` says where that is. Without a network, or with `HF_HUB_OFFLINE=1`, what is there
    already is used.

    Args:
        model: the hub id.
        config_only: fetch no weights and no tokenizer.

    Raises:
        UsageError: the hub has no such model, or cannot be reached and the cache has not all files.
    """
    from huggingface_hub import snapshot_download  # late: only a hub id needs it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        found = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(CONFIG_FILES if config_only else MODEL_FILES),
            ignore_patterns=list(SECOND_COPIES),
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{model}: no such directory; tried as a hub id, it is not available from the hub: "
            f"{reason}",
            "check the path, or the name of the hub id and the network",
        ) from error
    path = Path(found)
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{model}: this repository of the hub has no config.json, so it is no model that "
            "transformers loads",
            "give the hub id of the model in the format of transformers",
        )
    return path
