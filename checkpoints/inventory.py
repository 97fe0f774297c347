"""Which stored tensors are the model: decided here once, as stock transformers decides it.

Files: `transformers_weights` of config.json if it names one, else `model.safetensors`, else the
shards that `model.safetensors.index.json` names. transformers 5 looks in this order
(`modeling_utils._get_resolved_checkpoint_files`); no other file in the directory counts.

Tensors: all in these files, except buffers that transformers computes itself, a head that repeats
the embedding it is tied to, and what `other_writers.py` says. Torch is not imported, so that plans
can use this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..documents import read_object
from ..errors import Refused, UsageError
from ..models import (
    WRAPPED_IN,
    EmbeddingAndHead,
    activation_scales,
    embedding_and_head,
    is_buffer,
    text_name,
)
from .artifacts import is_artifact
from .other_writers import needless_biases, with_prefix

__all__ = ["Inventory", "StoredTensor", "inventory", "opened", "weight_files"]

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
AGAIN = "copy or download the file again"
LONGEST_NAME = 255
"""Bytes; the operating system refuses to look for longer ones."""
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Floating-point types of weights: the name in safetensors -> the name in config.json."""
SCALES = ("scales", "weight_scale", "input_scale", "pre_quant_scale")
"""Floating-point parts of packed layers, whose type is the layout's and not the model's."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor of the model is, and what it is.

    Attributes:
        file: the safetensors file.
        name: its name there; the model's own, unless the embedding is stored as the head, or the
            model lies in a wrapper.
        dtype: its type as safetensors names it, as in `BF16`.
        shape: its sizes.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Its bytes. The number in the name of a type is that of its bits."""
        bits = re.search(r"\d+", self.dtype)
        return self.size * (int(bits[0]) // 8 if bits else 1)


@dataclass(frozen=True)
class Inventory:
    """The tensors of a checkpoint.

    Attributes:
        tensors: by the name that the model has for them, file by file in the order of the files.
        carried: by the stored name: what a wrapper has beside its text model.
        own_head: whether the files hold an untied head although config.json calls it tied.
        dtype: the floating-point type of most values, e.g. `bfloat16`; None: there are none.
    """

    tensors: Mapping[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    carried: Mapping[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    own_head: bool = False
    dtype: str | None = None


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights.

    Raises:
        UsageError: there are none, the index is broken, or a file that it names is missing.
    """
    named = _named_by_config(path)
    single = path / (named or WEIGHTS)
    index = path / INDEX
    if named and named.endswith(".index.json"):
        index = path / named
    elif single.is_file():
        return [single]
    elif named:
        raise UsageError(
            f"{path}: no {named}, which config.json names", "copy or download what is missing"
        )
    if not index.is_file() and is_artifact(path):
        raise UsageError(
            f"{path}: an artifact of `export`, and no checkpoint",
            "give the checkpoint that it was made from",
        )
    if not index.is_file():
        raise UsageError(
            f"{path}: no .safetensors weights", "convert the model: model.save_pretrained(DIR)"
        )
    names = _indexed(index)
    if missing := [name for name in names if not (path / name).is_file()]:
        raise UsageError(
            f"{path}: {', '.join(missing)} missing, which the index names",
            "copy or download what is missing",
        )
    return [path / name for name in names]


def _indexed(index: Path) -> list[str]:
    """The names of the files in an index. Those outside the directory are no part of the model."""
    found = read_object(index, AGAIN).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UsageError(f"{index}: not an index of weights: no `weight_map`", AGAIN)
    for tensor, name in found.items():
        if not _in_directory(name, ".safetensors"):
            raise UsageError(
                f"{index}: tensor `{tensor}` is in `{name}`, and not in a safetensors file in this "
                "directory",
                "put all files of the model into one directory, and name them by their file names",
            )
    return sorted(set(found.values()))


def _named_by_config(path: Path) -> str | None:
    """The file of weights that config.json names, which must be in the same directory."""
    try:
        named = read_object(path / "config.json", "").get("transformers_weights")
    except UsageError:
        return None  # reading the config reports the error
    if named is None:
        return None
    if not _in_directory(named, ".safetensors", ".safetensors.index.json"):
        raise UsageError(
            f"{path}/config.json: transformers_weights is `{named}`, and not a safetensors file "
            "in this directory",
            "name a file in the directory, or remove the entry",
        )
    return str(named)


def _in_directory(name: object, *endings: str) -> bool:
    """Whether this is a plain file name with one of these endings."""
    return (
        isinstance(name, str)
        and name.endswith(endings)
        and Path(name).name == name
        and "\0" not in name
        and len(os.fsencode(name)) <= LONGEST_NAME
    )


@contextmanager
def opened(file: Path, framework: str = "pt") -> Iterator[Any]:
    """A safetensors file, mapped until it is closed and nothing that was read from it is left.

    Raises:
        UsageError: it is damaged or cannot be read.
    """
    try:
        with safe_open(file, framework=framework) as handle:  # pyright: ignore[reportArgumentType]
            yield handle
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{file}: damaged or truncated: {error}", AGAIN) from error


def inventory(path: Path, config: Mapping[str, Any]) -> Inventory:
    """The tensors of the model in a directory.

    Args:
        path: the checkpoint.
        config: its config.json as it is in the file; of a wrapper, that of its text model.

    Raises:
        UsageError: there are no weights, or a file is damaged or missing.
        Refused: weights are stored as integers or in 8 bits, and config.json names no quantization;
            or an AWQ file scales an activation.
    """
    names = embedding_and_head(config)
    found = _stored(_signature(path))
    stored, carried = _split(found) if config.get(WRAPPED_IN) else (dict(found), {})
    stored = with_prefix(stored, names)
    stored = {name: tensor for name, tensor in stored.items() if not is_buffer(name)}
    block = config.get("quantization_config")
    if not block:
        _check_types(path, stored)
    else:
        _drop_zero_biases(stored, config)
        if block.get("quant_method") == "awq":
            _drop_activation_scales(path, stored, config)
    own_head = names.tied and not _merge_tied(stored, names, _signature(path))
    counts: dict[str, int] = {}
    for name, tensor in stored.items():
        if tensor.dtype in FLOATS and not name.endswith(SCALES):
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.size
    most = max(counts, key=lambda code: counts[code], default=None)
    return Inventory(stored, carried, own_head, FLOATS[most] if most else None)


def _split(
    found: Mapping[str, StoredTensor],
) -> tuple[dict[str, StoredTensor], dict[str, StoredTensor]]:
    """The tensors of the text model in a wrapper, by its own names, and the other tensors."""
    text = {own: tensor for name, tensor in found.items() if (own := text_name(name))}
    return text, {name: tensor for name, tensor in found.items() if not text_name(name)}


def _check_types(path: Path, stored: Mapping[str, StoredTensor]) -> None:
    for name, tensor in stored.items():
        if name.endswith(".weight") and tensor.dtype not in FLOATS:
            raise Refused(
                f"{path}: tensor `{name}` is in {tensor.dtype}, "
                "and config.json names no quantization",
                "use the floating-point checkpoint, or restore the quantization_config",
            )


def _drop_zero_biases(stored: dict[str, StoredTensor], config: Mapping[str, Any]) -> None:
    """Drop biases of zeros that the model has not; other values stay, and are refused later."""
    for name in needless_biases(stored, config):
        if _all_are(stored[name], 0):
            del stored[name]


def _all_are(tensor: StoredTensor, value: float) -> bool:
    with opened(tensor.file) as handle:
        return bool((handle.get_tensor(tensor.name) == value).all())


def _drop_activation_scales(
    path: Path, stored: dict[str, StoredTensor], config: Mapping[str, Any]
) -> None:
    """Drop scales of activations, which are no part of the model; they must all be 1."""
    for name in activation_scales(config):
        scales = stored.pop(name, None)
        if scales is None:
            continue
        if not _all_are(scales, 1):
            raise Refused(
                f"{path}: `{name}` divides the output of an activation, which edgewright does not "
                "compute",
                "quantize the floating-point model: edgewright quantize MODEL --method awq",
            )


def _merge_tied(
    stored: dict[str, StoredTensor], names: EmbeddingAndHead, signature: Signature
) -> bool:
    """Whether a head that config.json calls tied is tied, as transformers 5 judges.

    An absent head is tied. One that equals the embedding is tied, and dropped from `stored`. One
    with other values is not tied. If the embedding is absent, the stored head takes its place.
    """
    embedding = f"{names.embedding}.weight"
    head = f"{names.head}.weight"
    if f"{names.head}.qweight" in stored:
        return False
    if head not in stored:
        return True
    if embedding in stored:
        if not _equal(signature, stored[embedding], stored[head]):
            return False
        del stored[head]
    elif f"{names.embedding}.qweight" in stored:
        return False
    else:
        renamed = {embedding if name == head else name: t for name, t in stored.items()}
        stored.clear()
        stored.update(renamed)
    return True


Signature = tuple[tuple[Path, int, int], ...]
"""The weight files with the times and sizes that tell whether they have changed."""


def _signature(path: Path) -> Signature:
    stats = [(file, file.stat()) for file in weight_files(path)]
    return tuple((file, stat.st_mtime_ns, stat.st_size) for file, stat in stats)


@lru_cache(maxsize=16)
def _stored(signature: Signature) -> Mapping[str, StoredTensor]:
    """All tensors in the files."""
    found: dict[str, StoredTensor] = {}
    for file, _, _ in signature:
        with opened(file, "numpy") as handle:
            names = handle.keys()
            for name in names:
                part = handle.get_slice(name)
                shape = tuple(part.get_shape())
                found[name] = StoredTensor(file, name, str(part.get_dtype()), shape)
    return found


@lru_cache(maxsize=16)
def _equal(signature: Signature, one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two stored tensors have equal values; compared in parts, once per signature."""
    import torch  # late: a plan needs it only for a head that config.json says is not there

    if one.shape != other.shape:
        return False
    step = max(1, (1 << 22) // max(1, one.size // max(1, one.shape[0])))
    with opened(one.file) as first, opened(other.file) as second:
        a = first.get_slice(one.name)
        b = second.get_slice(other.name)
        return all(
            torch.equal(a[begin : begin + step].double(), b[begin : begin + step].double())
            for begin in range(0, one.shape[0], step)
        )
