"""Where a model is and what its config.json says. Nothing here imports torch: a plan reads no weight."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models import Architecture, architecture

__all__ = [
    "BUILTIN_MODEL",
    "dtype_name",
    "end_tokens",
    "model_path",
    "override",
    "packing",
    "quantization",
    "read_architecture",
    "read_config",
    "resolve",
]

BUILTIN_MODEL = "builtin:tiny-reasoner"
ROOT = Path(__file__).parents[1]


def model_path(model: str) -> str:
    """The directory behind `builtin:tiny-reasoner`; any other model as it is."""
    return str(ROOT / "demo" / "model") if model == BUILTIN_MODEL else model


def resolve(model: str | Path) -> Path:
    """A model directory: `model` itself, or a snapshot of that hub id.

    Raises:
        UsageError: it is neither, or the hub cannot be reached.
    """
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UsageError(
                f"{path}: no config.json, so this is no model directory",
                "give a Hugging Face model directory",
            )
        return path
    if path.exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1:
        raise UsageError(
            f"{model}: no such model directory",
            "give a directory, or a hub id such as Qwen/Qwen2.5-0.5B",
        )
    from huggingface_hub import snapshot_download  # late: only a hub id needs it
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
        return Path(snapshot_download(str(model), allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{model}: not a directory, and the hub did not give it: {reason}",
            "give a local directory",
        ) from error


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a model directory."""
    file = path / "config.json"
    try:
        config = json.loads(file.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{file}: not found", "give a Hugging Face model directory") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file}: not valid JSON: {error}", "restore the config.json of the model"
        ) from error
    if not isinstance(config, dict):
        raise UsageError(f"{file}: not a JSON object", "restore the config.json of the model")
    return config


def read_architecture(path: Path) -> Architecture:
    """The architecture that the config.json of a model directory describes.

    Raises:
        UsageError: there is no config.json, or it is not complete.
        Refused: the architecture is not supported.
    """
    return architecture(read_config(path), str(path / "config.json"))


def dtype_name(config: Mapping[str, Any]) -> str:
    """The name of the floating-point type that a config.json says its weights are in; float32 where it says nothing."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")


def quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The block of a config.json that says how weights are packed; None where they are floating point."""
    block: Any = config.get("quantization_config")
    return block or None


def end_tokens(path: Path) -> list[int]:
    """The end tokens that a directory's generation_config.json or config.json names; empty where neither does."""
    for name in ("generation_config.json", "config.json"):
        file = path / name
        ends = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        if ends is not None:
            return list(ends) if isinstance(ends, list) else [int(ends)]
    return []


def packing(config: Mapping[str, Any]) -> tuple[int, int, bool] | None:
    """Bits, group size and symmetry of the packed layers that a config.json describes; None where they are floating point."""
    block = quantization(config)
    if block is None:
        return None
    if block.get("quant_method") in ("compressed-tensors", "modelopt"):
        return 8, -1, True  # of these layouts only 8-bit integers are read
    return (
        int(block["bits"]),
        int(block["group_size"]),
        bool(block.get("sym", not block.get("zero_point", False))),
    )


def override(block: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What the `dynamic` part of a quantization block says of the module of this full name; empty where nothing is said."""
    patterns: Mapping[str, Mapping[str, Any]] = block.get("dynamic") or {}
    matching = (p for p in patterns if re.match(p.removeprefix("-:").removeprefix("+:"), name))
    first = next(matching, None)
    return patterns[first] if first is not None else {}
