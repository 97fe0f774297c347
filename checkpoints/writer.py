"""Write checkpoints that transformers 4 and 5 read alike."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from ..models import WRAPPED_IN
from .atomic_files import write_json
from .directories import atomic_directory
from .hashing import write_provenance
from .safetensors_writer import Pending, write_shards
from .wrapped import in_wrapper

__all__ = ["config_for_everyone", "copy_tokenizer", "write_checkpoint", "write_companions"]

SHARD_BYTES = 4 * 1024**3
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


def write_companions(checkpoint: Path, config: Mapping[str, Any], folder: Path) -> None:
    """Write what an artifact has beside its weights: config.json, and all files of the tokenizer.

    Args:
        checkpoint: what was exported.
        config: its config.json, which is written without its quantization.
        folder: the artifact.
    """
    kept = {key: value for key, value in config.items() if key != "quantization_config"}
    write_json(folder / "config.json", config_for_everyone(kept))
    copy_tokenizer(checkpoint, folder)


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
    needed = sum(spec.nbytes for spec in pending.specs.values())
    with atomic_directory(out, needed) as folder:
        write_shards(folder, pending, SHARD_BYTES)
        write_json(folder / "config.json", config_for_everyone(config))
        copy_tokenizer(source, folder)
        copy_tokenizer(around, folder, PROCESSOR_FILES if wrapped else ())
        write_provenance(folder, {"edgewright": __version__, **provenance})
        for name, value in (files or {}).items():
            write_json(folder / name, value)
        if verify:
            verify(folder)
