"""Write a checkpoint as GGUF for llama.cpp, with the `gguf` package.

Models with pruned heads or neurons can be written too. Packed weights are copied bit for bit where
llama.cpp has such blocks (`blocks.py`). Weights in 4 bits are never rounded here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ... import __version__
from ...checkpoints.config import read_architecture
from ...checkpoints.directories import atomic_directory
from ...checkpoints.disk import require_space
from ...checkpoints.hashing import content_hash, write_provenance
from ...checkpoints.settings import load_settings
from ...checkpoints.writer import write_companions
from ...errors import UsageError
from ...models import Architecture, architecture, require_expressible
from ...models.formats.gguf import FORMAT, MODEL
from ...models.llama_cpp import LlamaCpp, llama_cpp
from ...steps.context import StepContext, StepResult
from ..onnx.weights import Weights
from ..options import ExportOptions
from ..quantized_source import require_int4
from .check import read_back
from .rope import rope_of
from .tensors import How, Stored, entries, tensors
from .vocabulary import vocabulary_of

__all__ = ["export_gguf", "write"]

HOW: dict[How, str] = {
    "copied": "hold the checkpoint's integers bit for bit",
    "rounded": "were rounded to 8 bits in blocks of 32",
    "kept": "are in fp16",
}
"""What the note says of matrices, by how they got into the file."""


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a GGUF file as the result of the export step."""
    del context
    checked = export_gguf(source, out, options.precision)
    kinds = ", ".join(f"{count} {kind}" for kind, count in checked["tensors"].items())
    matrices = ", ".join(f"{count} {HOW[how]}" for how, count in checked["matrices"].items())
    note = (
        f"model.gguf: {kinds}. Of the matrices, {matrices}. Read back, weights differ from those "
        f"of {checked['reference']} by at most {checked['largest_difference']:.1e} of the largest "
        "value of a tensor"
    )
    return StepResult([note, *checked["notes"]], {"checked": checked})


def export_gguf(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Write a GGUF file, and compare its weights with the checkpoint.

    Args:
        checkpoint: a model directory.
        out: the directory to make.
        precision: `fp16`, `int8` or `int4`.

    Returns:
        `tensors`: the number of each kind; `matrices`: the number of those that were copied,
        rounded and kept in floating point (see `tensors.How`); `largest_difference` of a weight,
        relative to the largest of its tensor; `reference`: what the weights were compared with;
        `architecture` and `tokenizer`: llama.cpp's names; `notes`: what is not as in the model.

    Raises:
        UsageError: GGUF has no such precision, the package gguf is not installed, or the
            checkpoint of an INT4 export is not quantized.
        Refused: llama.cpp cannot run the model or read its tokenizer, a width is no multiple of
            its block size, or its blocks do not hold the integers of the checkpoint.
        ParityFailed: the file does not hold the weights of the checkpoint.
    """
    gguf = _package(precision)
    config = read_architecture(checkpoint).config
    if precision == "int4":
        require_int4(checkpoint, config)
    settings = load_settings(checkpoint)
    model = architecture(settings.to_dict(), f"{checkpoint}/config.json")
    require_expressible(model, "gguf", str(checkpoint))
    target, weights = llama_cpp(model), Weights(checkpoint, config)
    vocabulary, rope = vocabulary_of(checkpoint, model.vocab_size), rope_of(model, settings)
    found = entries(gguf, model, target, weights)
    with atomic_directory(out) as folder:
        writer = gguf.GGUFWriter(str(folder / MODEL), target.name)
        writer.add_name(vocabulary.name(checkpoint.resolve().name))
        _add_sizes(writer, model, target)
        rope.add(gguf, writer)
        vocabulary.add_keys(writer)
        matrices = _add_tensors(gguf, writer, tensors(gguf, weights, found, precision))
        _write(writer, out)
        checked = {
            "matrices": matrices,
            **read_back(gguf, folder / MODEL, checkpoint, weights, found),
            "architecture": target.name,
            "tokenizer": vocabulary.model,
            "notes": [*vocabulary.notes, *rope.notes],
        }
        write_companions(checkpoint, config, folder)
        write_provenance(folder, _provenance(checkpoint, precision, checked))
    return checked


def _add_tensors(gguf: Any, writer: Any, found: Iterable[Stored]) -> dict[How, int]:
    """Add tensors, and the file type that most matrices have; returns how matrices got there."""
    matrices, kinds = Counter[How](), Counter[str]()
    for tensor in found:
        writer.add_tensor(tensor.name, tensor.array, raw_dtype=tensor.kind)
        if tensor.how != "beside":
            matrices[tensor.how] += 1
            kinds[tensor.kind.name] += 1
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kinds.most_common(1)[0][0]}"])
    return dict(matrices)


def _write(writer: Any, out: Path) -> None:
    """Write the file, once it is clear that the disk has room for it; close it in any case."""
    require_space(out, sum(one.nbytes for part in writer.tensors for one in part.values()))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except OSError:
        with suppress(OSError):  # what is still in its buffer does not fit either
            writer.close()
        raise
    writer.close()


def _package(precision: str) -> Any:
    """The package gguf.

    Raises:
        UsageError: GGUF has no such precision, or the package is not installed.
    """
    if precision not in FORMAT.precisions:
        raise UsageError(
            f"--precision {precision}: unknown for GGUF",
            f"use one of {', '.join(FORMAT.precisions)}",
        )
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            "GGUF needs the package gguf, which is not installed",
            "pip install 'edgewright[compress]'",
        ) from error
    return gguf


def _provenance(checkpoint: Path, precision: str, checked: dict[str, Any]) -> dict[str, Any]:
    return {
        "edgewright": __version__,
        "kind": "artifact",
        "format": "gguf",
        "precision": precision,
        "checked": checked,
        "source": {"name": checkpoint.name, "content_hash": content_hash(checkpoint)},
    }


def _add_sizes(writer: Any, model: Architecture, target: LlamaCpp) -> None:
    """Write the keys of `<architecture>` apart from those of `rope`."""
    sizes, attentions = model.attention_sizes, [layer.attention for layer in model.layers]
    assert model.max_positions, "transformers fills in a default"
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.max_positions)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(len(model.layers))
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head_dim)
    writer.add_value_length(sizes.head_dim)
    add_epsilon = {"rms": writer.add_layer_norm_rms_eps, "layer": writer.add_layer_norm_eps}
    add_epsilon[model.final_norm.kind](model.final_norm.epsilon)
    if target.has_windows(model) and (windows := {a.window for a in attentions if a.window}):
        writer.add_sliding_window(windows.pop())
        writer.add_sliding_window_pattern([bool(a.window) for a in attentions])
    if target.scales:
        writer.add_embedding_scale(model.embedding_scale)
        writer.add_attention_scale(attentions[0].query_scale)
        writer.add_residual_scale(model.layers[0].residual_scale)
    if target.logit_scale:
        divides = target.logit_scale == "divides"
        writer.add_logit_scale(1 / model.logit_scale if divides else model.logit_scale)
    if cap := attentions[0].softcap:
        writer.add_attn_logit_softcapping(cap)
    if scale := attentions[0].position_scale:
        writer.add_attn_temperature_scale(scale.beta)
    if model.logit_softcap:
        writer.add_final_logit_softcapping(model.logit_softcap)
