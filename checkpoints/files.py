"""Checkpoints: Hugging Face directories that stock tools can load, read with care and written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import __version__
from ..errors import EdgewrightError, Refused, UsageError
from .config import dtype_name, read_config, read_family, resolve
from .safetensors_writer import DTYPES, Pending, write_shards

__all__ = [
    "CARD",
    "PROVENANCE",
    "atomic_directory",
    "check_finite",
    "check_output",
    "config_for_everyone",
    "content_hash",
    "copy_tokenizer",
    "disk_error",
    "file_hash",
    "finite",
    "read_config",
    "read_family",
    "read_provenance",
    "read_state",
    "resolve",
    "rows_of",
    "scratch_directory",
    "stored_dtype",
    "sync",
    "tensor_specs",
    "tensors_of",
    "weight_bytes",
    "weight_files",
    "write_checkpoint",
    "write_json",
]

PROVENANCE = "edgewright.json"
CARD = "README.md"
"""The model card: what was measured on a directory, which is no part of what it holds."""
SHARD_BYTES = 4 * 1024**3
MAPPED_BYTES = 2**28
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, beyond the quota, beyond the largest file."""
WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".data", ".gguf", ".engine")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def read_provenance(path: Path) -> dict[str, Any]:
    """What `edgewright.json` of a checkpoint or artifact says; empty for one that edgewright did not write."""
    file = path / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {}


def stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    """The floating-point type a config.json says its weights are in; float32 where it says nothing."""
    name = dtype_name(config)
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(
            f"config.json: dtype `{name}` is unknown", "use float32, float16 or bfloat16"
        )
    return dtype


def weight_files(path: Path) -> list[Path]:
    """The safetensors that transformers reads: one file, or those that the index names; nothing else that lies beside them.

    Raises:
        UsageError: there are none, the index is broken, or a file that it names is missing.
    """
    index = path / "model.safetensors.index.json"
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if not index.is_file():
        raise UsageError(
            f"{path}: no .safetensors weights", "convert the model: model.save_pretrained(DIR)"
        )
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{index}: not an index of weights: {error}", "copy or download the file again"
        ) from error
    if missing := [name for name in names if not (path / name).is_file()]:
        raise UsageError(
            f"{path}: {', '.join(missing)} missing, which the index names",
            "copy or download what is missing",
        )
    return [path / name for name in names]


def tensors_of(
    path: Path, wanted: Callable[[str], bool] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything in a checkpoint, one at a time in memory, checked: files whole, values finite.

    Args:
        path: the checkpoint.
        wanted: whether a tensor of this name is to be read; all of them, if nothing is said.

    Raises:
        UsageError: no safetensors, a truncated file, or a tensor with NaN or infinity (which is named).
    """
    for file in weight_files(path):
        with _opened(file) as handle:
            names = [name for name in handle.keys() if wanted is None or wanted(name)]
        while names:
            with (
                _opened(file) as handle
            ):  # again after a while, as what has been read stays in memory for as long as the file is open
                read = 0
                while names and read < MAPPED_BYTES:
                    name = names.pop(0)
                    tensor = finite(path, name, handle.get_tensor(name))
                    read += tensor.nbytes
                    yield name, tensor
                    del tensor


def check_finite(path: Path) -> None:
    """Read all of a checkpoint once, as `tensors_of` does, so that what is broken shows before anything is computed."""
    deque(tensors_of(path), maxlen=0)


def rows_of(path: Path, name: str, size: int) -> Iterator[Tensor]:
    """A tensor of a checkpoint, `size` rows after the other, of which only these are in memory; checked as `tensors_of` does."""
    for file in weight_files(path):
        with _opened(file) as handle:
            total = handle.get_slice(name).get_shape()[0] if name in handle.keys() else 0
        for begin in range(0, total, size):
            with (
                _opened(file) as handle
            ):  # again, as what has been read stays in memory for as long as the file is open
                yield finite(path, name, handle.get_slice(name)[begin : begin + size])


def tensor_specs(path: Path) -> dict[str, Tensor]:
    """Name, shape and dtype of everything in a checkpoint, as tensors on the meta device: no weight is read.

    Raises:
        UsageError: no safetensors, a truncated file, or a dtype that torch cannot compute with.
    """
    specs: dict[str, Tensor] = {}
    for file in weight_files(path):
        with _opened(file) as handle:
            for name in handle.keys():
                part = handle.get_slice(name)
                code = part.get_dtype()
                if code not in DTYPES:
                    raise UsageError(
                        f"{path}: tensor `{name}` is in {code}",
                        "convert the model to float32, float16 or bfloat16",
                    )
                specs[name] = torch.empty(part.get_shape(), dtype=DTYPES[code], device="meta")
    return specs


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file; it stays mapped into memory until it is closed and nothing that was read from it is left."""
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{file}: damaged or truncated: {error}", "copy or download the file again"
        ) from error


def finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor, if there is no NaN or infinity in it, looked at in parts: the test needs more memory than what it tests."""
    if tensor.is_floating_point() and not all(
        bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(1 << 22)
    ):
        raise UsageError(
            f"{path}: tensor `{name}` holds NaN or infinity",
            "restore the weights; nothing can be measured on them",
        )
    return tensor


def read_state(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, checked as `tensors_of` does."""
    return dict(tensors_of(path))


def content_hash(path: Path, skip: str = "") -> str:
    """sha256 over the names and bytes of every file below a directory, except those called `skip` and the model card."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name not in (skip, CARD))
    for file in files:
        digest.update(
            file.relative_to(path).as_posix().encode() + b"\0" + bytes.fromhex(file_hash(file))
        )
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """sha256 of a file's bytes."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def weight_bytes(path: Path) -> int:
    """Bytes of the weight files (safetensors, ONNX and its external data) in a directory."""
    return sum(
        p.stat().st_size for p in path.rglob("*") if p.is_file() and p.suffix in WEIGHT_SUFFIXES
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: a temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as handle:
        json.dump(value, handle, indent=2, sort_keys=False)
        handle.write("\n")
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """A name for what is needed on the way, cleared before and after: what a killed run left goes when the next one comes."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_output(out: Path) -> None:
    """Accept a directory to be made: it is not there, is empty, or was written by edgewright.

    Raises:
        UsageError: `out` is a file, or holds something that edgewright did not write.
    """
    if out.is_file() or (out.exists() and any(out.iterdir()) and not (out / PROVENANCE).exists()):
        raise UsageError(
            f"{out}: exists and was not written by edgewright",
            "choose another --out, or remove it yourself",
        )


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """A temporary directory that becomes `out` when the block ends well, and is removed when it does not.

    Raises:
        UsageError: `out` is a file, or holds something that edgewright did not write.
        Refused: the disk is full.
        EdgewrightError: the place cannot be written to.
    """
    check_output(out)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync(temporary)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    except OSError as error:
        raise disk_error(out, error) from error
    except SafetensorError as error:
        raise EdgewrightError(
            f"{out}: could not be written: {error}", "free disk space and run the command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def disk_error(out: Path, error: OSError) -> EdgewrightError:
    """What to tell of a directory that could not be written; a full disk counts as a refusal, as a plan would have foreseen it."""
    free = shutil.disk_usage(
        next(p for p in (out.parent, *out.parent.parents, Path.cwd()) if p.is_dir())
    ).free
    kind = Refused if error.errno in FULL else EdgewrightError
    return kind(
        f"{out}: could not be written: {error.strerror or error} ({free / 1e9:.1f} GB free)",
        "free disk space or choose another --out; nothing was left half-written",
    )


def sync(folder: Path) -> None:
    """Wait until a directory and every file below it are on the disk."""
    for path in [p for p in folder.rglob("*") if p.is_file()] + [folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def config_for_everyone(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json that transformers 4 and 5 read alike: both spellings of rope and dtype, no null blocks.

    transformers 5 moves `rope_theta` into `rope_parameters`; a 4.x reader then falls back to 10000 in silence.
    """
    both = dict(config)
    dtype = both.get("dtype") or both.get("torch_dtype")
    if dtype:
        both["dtype"] = both["torch_dtype"] = dtype
    rope = both.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        both["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            both["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    elif isinstance(rope, dict):  # one entry a layer type, as in Gemma 3
        full, local = rope.get("full_attention") or {}, rope.get("sliding_attention") or {}
        if "rope_theta" in full:
            both["rope_theta"] = full["rope_theta"]
        if full.get("rope_type", "default") != "default":
            both["rope_scaling"] = {k: v for k, v in full.items() if k != "rope_theta"}
        if "rope_theta" in local:
            both["rope_local_base_freq"] = local["rope_theta"]
    for block in ("quantization_config", "rope_scaling"):
        if both.get(block, ...) is None:
            del both[block]
    return both


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy tokenizer, chat template and generation settings byte for byte."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_checkpoint(
    out: Path,
    state: Mapping[str, Tensor] | Pending,
    config: Mapping[str, Any],
    source: Path,
    provenance: Mapping[str, Any],
    verify: Callable[[Path], None] | None = None,
    files: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint atomically: sharded safetensors, config for transformers 4 and 5, the source's tokenizer.

    Args:
        out: the directory to make.
        state: tensors by name, or such as are yet to be made; tied ones must be given once.
        config: the config.json to write.
        source: the directory whose tokenizer is copied.
        provenance: what `edgewright.json` says beside the version.
        verify: called with the finished directory before it gets its name; what it raises leaves nothing behind.
        files: more JSON files, by name.
    """
    with atomic_directory(out) as folder:
        write_shards(
            folder,
            state if isinstance(state, Pending) else Pending(state, state.items()),
            SHARD_BYTES,
        )
        write_json(folder / "config.json", config_for_everyone(config))
        copy_tokenizer(source, folder)
        write_json(folder / PROVENANCE, {"edgewright": __version__, **provenance})
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        if verify:
            verify(folder)
