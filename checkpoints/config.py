"""Where a model is, and what its config.json and its files say about it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..documents import in_hand, read_object
from ..errors import Refused, UsageError
from ..models import FAMILIES, Architecture, architecture, check_values, text_config
from .artifacts import is_gguf
from .hub import fetch, is_hub_id
from .inventory import inventory
from .packing import check_block, scheme_of

__all__ = [
    "BUILTIN_MODEL",
    "dtype_name",
    "end_tokens",
    "is_builtin",
    "model_path",
    "packing",
    "quantization",
    "read_architecture",
    "read_config",
    "read_json",
    "resolve",
    "written_config",
]

BUILTIN_MODEL = "builtin:tiny-reasoner"
ROOT = Path(__file__).parents[1]
ADAPTER = "adapter_config.json"
TOKENIZER = "tokenizer.json"
LAST_TOKEN = 2**31


def model_path(model: str) -> str:
    """The directory behind `builtin:tiny-reasoner`; any other model as it is."""
    return str(ROOT / "demo" / "model") if model == BUILTIN_MODEL else model


def is_builtin(path: Path) -> bool:
    """Whether a model is the built-in one, or was made from it: whether it has its vocabulary.

    All files of a tokenizer are copied when a model is pruned, distilled, quantized or exported.
    """
    file = path / TOKENIZER
    own = ROOT / "demo" / "model" / TOKENIZER
    if not file.is_file() or file.stat().st_size > 2 * own.stat().st_size:
        return False
    try:
        vocabulary = read_json(file)["model"]
    except (UsageError, KeyError):  # whoever loads the tokenizer says what is wrong
        return False
    return vocabulary == read_json(own)["model"]


def resolve(model: str | Path, *, config_only: bool = False) -> Path:
    """A model directory: `model` itself, or a snapshot of that hub id.

    Args:
        model: a directory, or a hub id `org/name`, perhaps with `@revision` behind it.
        config_only: of a hub id, fetch no weights and no tokenizer.

    Raises:
        UsageError: it is neither, or the hub cannot be reached.
    """
    path = Path(model)
    if os.path.isdir(path):  # unlike `Path`, never fails on a name that is no name of a file
        if not (path / "config.json").is_file():
            if is_gguf(path):
                raise UsageError(
                    f"{path}: a GGUF artifact without config.json, of an earlier edgewright",
                    "export its checkpoint again",
                )
            raise UsageError(
                f"{path}: no config.json, so this is no model directory",
                "give a Hugging Face model directory",
            )
        return path
    if os.path.exists(path) or not is_hub_id(str(model)):
        raise UsageError(
            f"{model}: no such model directory",
            "give a directory, or a hub id such as Qwen/Qwen2.5-0.5B",
        )
    return fetch(str(model), config_only=config_only)


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a model directory, corrected where the stored weights differ from it.

    The stored tensors decide whether the head is tied to the embedding, and what type they have.

    Raises:
        UsageError: there is no config.json, or it is broken.
        Refused: the directory would be misread; see `written_config`.
    """
    return _as_stored(path, written_config(path))


def written_config(path: Path) -> dict[str, Any]:
    """The config.json of a model directory as written, its quantization block in its usual place.

    Of a wrapper, this is the config of the text model in it.

    Raises:
        UsageError: there is no config.json, or it is broken.
        Refused: there is an adapter beside the weights, or they are quantized in an unknown way.
    """
    file = path / "config.json"
    config = read_json(file)
    _refuse_adapter(path)
    if block := _block_elsewhere(path, config):
        config = {k: v for k, v in config.items() if k != "compression_config"}
        config["quantization_config"] = block
    config = text_config(config, str(file))
    if str(config.get("model_type")) in FAMILIES:
        check_values(config, str(file))
    if found := quantization(config):
        check_block(found, str(file))
    return config


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model directory.

    Raises:
        UsageError: it is not there, or not a JSON object.
    """
    if not file.exists():
        raise UsageError(f"{file}: not found", "give a Hugging Face model directory")
    return read_object(file, f"restore the {file.name} of the model")


def _refuse_adapter(path: Path) -> None:
    """Refuse a directory where transformers would load an adapter on top of the weights."""
    if (path / ADAPTER).is_file():
        raise Refused(
            f"{path}: {ADAPTER}: there is an adapter (LoRA) beside the weights, which transformers "
            "would load and edgewright would not",
            "merge it (peft: merge_and_unload), or move it to another directory",
        )


def _block_elsewhere(path: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """A quantization block that is not under `quantization_config`.

    Older compressed-tensors has it under `compression_config`, ModelOpt in a file of its own.
    """
    if quantization(config):
        return None
    if older := config.get("compression_config"):
        return {"quant_method": "compressed-tensors", **_object(older, path / "config.json")}
    own = path / "hf_quant_config.json"
    if not own.is_file():
        return None
    return {"quant_method": "modelopt", **_object(read_json(own).get("quantization") or {}, own)}


def _object(block: Any, file: Path) -> Mapping[str, Any]:
    if not isinstance(block, Mapping):
        raise UsageError(f"{file}: its quantization is not an object", f"restore the {file.name}")
    return block


def _as_stored(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A config.json with `tie_word_embeddings` and `dtype` as the stored tensors have them.

    Where no tensors can be read, it stays as it is.
    """
    try:
        stored = inventory(path, config)
    except UsageError:
        return config  # a plan needs no weights; reading them reports the error
    if stored.own_head:
        config["tie_word_embeddings"] = False
    if stored.dtype and stored.dtype != dtype_name(config, default=""):
        config["dtype"] = stored.dtype
        if "torch_dtype" in config:
            config["torch_dtype"] = stored.dtype
    return config


def read_architecture(path: Path) -> Architecture:
    """The architecture that the config.json of a model directory describes.

    Raises:
        UsageError: there is no config.json, or it is not complete.
        Refused: the architecture is not supported.
    """
    file = path / "config.json"
    with in_hand(file):
        return architecture(read_config(path), str(file))


def dtype_name(config: Mapping[str, Any], default: str = "float32") -> str:
    """The floating-point type that a config.json names, e.g. `bfloat16`; else `default`."""
    return str(config.get("dtype") or config.get("torch_dtype") or default).removeprefix("torch.")


def quantization(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The block of a config.json that says how weights are packed; None: they are not."""
    block: Any = config.get("quantization_config")
    return block or None


def end_tokens(path: Path) -> list[int]:
    """The end tokens that generation_config.json or else config.json names; empty: neither does.

    Raises:
        UsageError: the file is no JSON object, or names something else than tokens.
    """
    for name in ("generation_config.json", "config.json"):
        file = path / name
        ends = (
            text_config(read_json(file), str(file)).get("eos_token_id") if file.is_file() else None
        )
        if ends is None:
            continue
        listed: list[Any] = ends if isinstance(ends, list) else [ends]
        if not all(type(end) is int and 0 <= end < LAST_TOKEN for end in listed):
            raise UsageError(
                f"{file}: eos_token_id is {ends!r}, and no token id", "restore the file"
            )
        return listed
    return []


def packing(config: Mapping[str, Any], where: str = "config.json") -> tuple[int, int, bool] | None:
    """Bits, group size and symmetry of the packed layers of a model; None: none are packed.

    Raises:
        Refused: they are packed in a way that is not read here.
    """
    block = quantization(config)
    if block is None:
        return None
    scheme = scheme_of(block, "", where)
    return scheme.bits, scheme.group_size, scheme.sym
