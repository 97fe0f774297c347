"""Write model directories: whole or not at all, and readable by transformers 4 and 5 alike."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from .. import __version__
from ..errors import EdgewrightError, Refused, UsageError
from ..models import WRAPPED_IN
from .atomic_files import write_json
from .hashing import PROVENANCE, write_provenance
from .safetensors_writer import Pending, write_shards
from .wrapped import in_wrapper

__all__ = [
    "atomic_directory",
    "check_output",
    "config_for_everyone",
    "copy_tokenizer",
    "disk_error",
    "scratch_directory",
    "sync",
    "write_checkpoint",
]

SHARD_BYTES = 4 * 1024**3
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space left, beyond the quota, beyond the largest file."""
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model*",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
)
"""Files of a tokenizer, its chat templates and generation settings, as patterns of paths."""
PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
)
"""Files that say how a wrapper's images and videos are prepared."""


@contextmanager
def scratch_directory(path: Path) -> Iterator[Path]:
    """A name for intermediate files, removed before and after.

    What a killed run left behind is removed by the next run.
    """
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
    """A temporary directory that becomes `out` if the block succeeds, and is removed if it fails.

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
    """The error for a directory that could not be written.

    A full disk is `Refused`, as a plan would have refused it.
    """
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
    """A config.json that transformers 4 and 5 read alike: both spellings of rope and dtype.

    transformers 5 moves `rope_theta` into `rope_parameters`, where 4.x does not look: it would
    silently take 10000. Null blocks are left out. A text model loses its mark of the wrapper that
    it was taken from; the text model of a whole wrapper is written likewise.
    """
    both = {key: value for key, value in config.items() if key != WRAPPED_IN}
    if isinstance(both.get("text_config"), dict):
        both["text_config"] = config_for_everyone(both["text_config"])
    dtype = both.get("dtype") or both.get("torch_dtype")
    if dtype:
        both["dtype"] = both["torch_dtype"] = dtype
    rope = both.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope:
        both["rope_theta"] = rope["rope_theta"]
        if "partial_rotary_factor" in rope:
            both["partial_rotary_factor"] = rope["partial_rotary_factor"]
        if rope.get("rope_type", "default") != "default" or "mrope_section" in rope:
            both["rope_scaling"] = _old_rope(rope, both)
    elif isinstance(rope, dict):  # one entry per layer type, as in Gemma 3
        full = rope.get("full_attention") or {}
        local = rope.get("sliding_attention") or {}
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


def _old_rope(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The `rope_scaling` of transformers 4; what the config itself has is not repeated in it.

    With more than three keys, or without `type`, transformers 4 refuses the longrope of a Phi-3.
    """
    old = {key: value for key, value in rope.items() if key not in config}
    if old.get("rope_type") == "longrope":
        return {"type": old.pop("rope_type"), **old}
    return old


def copy_tokenizer(source: Path, out: Path, patterns: Iterable[str] = TOKENIZER_FILES) -> None:
    """Copy tokenizer, chat templates and generation settings byte for byte."""
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            place = out / file.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)


def write_checkpoint(
    out: Path,
    state: Mapping[str, Tensor] | Pending,
    config: Mapping[str, Any],
    source: Path,
    provenance: Mapping[str, Any],
    verify: Callable[[Path], None] | None = None,
    files: Mapping[str, Any] | None = None,
    wrapper: Path | None = None,
) -> None:
    """Write a checkpoint atomically: safetensors, config.json and the source's tokenizer.

    A text model that was taken from a wrapper is written with the rest of the wrapper around it.

    Args:
        out: the directory to make.
        state: tensors by name, or those to be made while writing; tied ones are given once.
        config: the config.json to write.
        source: the directory whose tokenizer is copied.
        provenance: what `edgewright.json` says beside the version.
        verify: called with the temporary directory; if it raises, nothing is written.
        files: more JSON files, by name.
        wrapper: the directory that a text model was taken from; None: `source`.
    """
    pending = state if isinstance(state, Pending) else Pending(state, state.items())
    around = wrapper or source
    wrapped = WRAPPED_IN in config
    if wrapped:
        pending, config = in_wrapper(pending, config, around)
    with atomic_directory(out) as folder:
        write_shards(folder, pending, SHARD_BYTES)
        write_json(folder / "config.json", config_for_everyone(config))
        copy_tokenizer(source, folder)
        copy_tokenizer(around, folder, PROCESSOR_FILES if wrapped else ())
        write_provenance(folder, {"edgewright": __version__, **provenance})
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        if verify:
            verify(folder)
