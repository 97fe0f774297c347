"""Write a checkpoint as GGUF for llama.cpp, in F16, Q8_0 or Q4_0, with the `gguf` package.

Models with pruned heads or neurons can be written too. Packed weights are copied bit for bit where
llama.cpp has such blocks (`blocks.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ... import __version__
from ...checkpoints.config import end_tokens
from ...checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    content_hash,
    copy_tokenizer,
    read_architecture,
    write_json,
)
from ...checkpoints.layouts import PackedLinear
from ...checkpoints.loading import load_settings, stock_model
from ...errors import ParityFailed, Refused, UsageError
from ...models import Architecture, architecture, require_expressible
from ...models.formats.gguf import PRE_TOKENIZERS
from ...steps.context import StepContext, StepResult
from ..onnx.reference import REFERENCES, choose_reference
from ..onnx.weights import Weights
from ..options import ExportOptions
from .blocks import BLOCK, block_kind, packed_blocks

__all__ = ["KINDS", "export_gguf", "write"]

MODEL = "model.gguf"
KINDS = {"fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""llama.cpp's name for each precision of the linear layers."""
INTERLEAVED = ("llama",)
"""Architectures for which llama.cpp rotates neighbouring channels of a head.

For the others it rotates the two halves of a head, as transformers always does.
"""


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write a GGUF file as the result of the export step."""
    del context
    checked = export_gguf(source, out, options.precision)
    kinds = ", ".join(f"{count} {kind}" for kind, count in checked["tensors"].items())
    note = (
        f"model.gguf: {kinds}; read back, weights differ from those of {checked['reference']} "
        f"by at most {checked['largest_difference']:.1e} of the largest value of a tensor"
    )
    return StepResult([note], {"checked": checked})


def export_gguf(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Write a GGUF file, and compare its weights with the checkpoint.

    Args:
        checkpoint: a model directory.
        out: the directory to make.
        precision: `fp16`, `int8` or `int4`.

    Returns:
        `tensors`: the number of each kind; `largest_difference` of a weight, relative to the
        largest of its tensor; `reference`: what the weights were compared with.

    Raises:
        UsageError: GGUF has no such precision, or the package gguf is not installed.
        Refused: llama.cpp cannot run the model, or a width is no multiple of its block size.
    """
    if precision not in KINDS:
        raise UsageError(
            f"--precision {precision}: unknown for GGUF", f"use one of {', '.join(KINDS)}"
        )
    try:
        import gguf
    except ImportError as error:
        raise UsageError(
            "GGUF needs the package gguf, which is not installed", "pip install 'edgewright[gguf]'"
        ) from error
    config = read_architecture(checkpoint).config
    model = architecture(load_settings(checkpoint).to_dict(), f"{checkpoint}/config.json")
    require_expressible(model, "gguf", str(checkpoint))
    with atomic_directory(out) as folder:
        writer = gguf.GGUFWriter(str(folder / MODEL), _kind(model))
        _metadata(writer, checkpoint, model, precision)
        for name, array, kind in _tensors(gguf, Weights(checkpoint, config), model, precision):
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        checked = _read_back(gguf, folder / MODEL, checkpoint, config, model)
        copy_tokenizer(checkpoint, folder)
        provenance = {
            "edgewright": __version__,
            "kind": "artifact",
            "format": "gguf",
            "precision": precision,
            "checked": checked,
            "source": {"name": checkpoint.name, "content_hash": content_hash(checkpoint)},
        }
        write_json(folder / PROVENANCE, provenance)
    return checked


def _kind(model: Architecture) -> str:
    """The architecture that the file names for llama.cpp.

    llama.cpp's qwen2 requires heads * head_dim to be the hidden size. Its llama does not, and
    supports biases. So a Qwen2 with pruned heads is written as a llama, with the channels of
    queries and keys in the order that llama needs.
    """
    sizes = model.attention_sizes
    pruned = sizes.heads * sizes.head_dim != model.hidden_size
    return "llama" if model.model_type == "qwen2" and pruned else model.model_type


def _metadata(writer: Any, checkpoint: Path, model: Architecture, precision: str) -> None:
    sizes, config = model.attention_sizes, model.config
    rope: Mapping[str, Any] = config.get("rope_parameters") or {}
    assert model.max_positions, "transformers fills in a default"
    writer.add_name(checkpoint.resolve().name)
    writer.add_context_length(model.max_positions)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(len(model.layers))
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_key_length(sizes.head_dim)
    writer.add_value_length(sizes.head_dim)
    writer.add_rope_dimension_count(sizes.head_dim)
    writer.add_layer_norm_rms_eps(model.final_norm.epsilon)
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type("linear")
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(model.vocab_size)
    writer.add_file_type({"fp16": 1, "int8": 7, "int4": 2}[precision])
    _tokenizer(writer, checkpoint, model)


def _tokenizer(writer: Any, checkpoint: Path, model: Architecture) -> None:
    """Write a byte-level BPE vocabulary from tokenizer.json; without one, only ids can be used."""
    file = checkpoint / "tokenizer.json"
    tokenizer = json.loads(file.read_text()) if file.is_file() else {}
    vocabulary = tokenizer.get("model") or {}
    if vocabulary.get("type") != "BPE":
        writer.add_tokenizer_model("no_vocab")
        return
    added = {int(token["id"]): token["content"] for token in tokenizer["added_tokens"]}
    tokens = {index: text for text, index in vocabulary["vocab"].items()} | added
    names = [tokens.get(index, f"[PAD{index}]") for index in range(model.vocab_size)]
    normal, control, unused = 1, 3, 5
    kinds = [
        control if index in added else normal if index in tokens else unused
        for index in range(model.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[model.model_type])
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in vocabulary["merges"]]
    )
    if ends := end_tokens(checkpoint):
        writer.add_eos_token_id(ends[0])
    template = checkpoint / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text())


def _names(gguf: Any, model: Architecture) -> Mapping[str, str]:
    """The names of modules in the checkpoint -> their names in llama.cpp."""
    kind = getattr(gguf.MODEL_ARCH, _kind(model).upper())
    name_map = gguf.get_tensor_name_map(kind, len(model.layers))
    modules = [model.embedding, model.final_norm.name, model.head]
    for layer in model.layers:
        attention, ffn = layer.attention, layer.ffn
        parts = [layer.mixer_norm, layer.ffn_norm, *attention.linears, *ffn.linears]
        parts += [norm for norm in (attention.q_norm, attention.k_norm) if norm]
        modules += [layer.full(part.name) for part in parts]
    return {module: name_map.get_name(module) for module in modules}


def _tensors(
    gguf: Any, weights: Weights, model: Architecture, precision: str
) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, stored bytes and kind (a quantization type of GGML) of every tensor."""
    kinds = gguf.GGMLQuantizationType
    linears, heads = model.linears(), _interleaved(model)
    for module, name in _names(gguf, model).items():
        bias = weights.vector(f"{module}.bias")
        if bias is not None:
            yield f"{name}.bias", _interleave(bias, heads.get(module)).numpy(), kinds.F32
        if module in linears:
            yield (f"{name}.weight", *_linear(gguf, weights, module, heads.get(module), precision))
        elif f"{module}.weight" in weights or weights.is_packed(module):
            dense = weights.dense(module)
            kind = (
                kinds.F32
                if dense.ndim == 1
                else kinds.F16
                if precision == "fp16" or dense.shape[1] % BLOCK
                else kinds.Q8_0
            )
            yield f"{name}.weight", gguf.quants.quantize(dense.numpy(), kind), kind


def _linear(
    gguf: Any, weights: Weights, module: str, heads: int | None, precision: str
) -> tuple[NDArray[Any], Any]:
    """Stored bytes and kind of the weight of a linear layer; for `heads` see `_interleave`."""
    kinds = gguf.GGMLQuantizationType
    kind = getattr(kinds, KINDS[precision])
    packed = weights.packed(module) if weights.is_packed(module) else None
    width = (packed.integers if packed else weights.tensor(f"{module}.weight")).shape[1]
    if precision != "fp16" and width % BLOCK:
        raise Refused(
            f"{module}: {width} inputs do not divide into blocks of {BLOCK}",
            "prune to such a width, or --precision fp16",
        )
    if precision == "int4" and packed:
        if own := block_kind(packed):
            return packed_blocks(_interleaved_rows(packed, heads)), getattr(kinds, own)
        kind = kinds.Q8_0 if packed.bits == 8 else kind
    return gguf.quants.quantize(_interleave(weights.dense(module), heads).numpy(), kind), kind


def _interleaved_rows(packed: PackedLinear, heads: int | None) -> PackedLinear:
    """A packed weight with its rows in the order of `_interleave`."""
    return replace(
        packed,
        integers=_interleave(packed.integers, heads),
        scales=_interleave(packed.scales, heads),
        zeros=_interleave(packed.zeros, heads),
    )


def _interleaved(model: Architecture) -> dict[str, int]:
    """Number of heads of each query and key projection whose channels must be interleaved."""
    if _kind(model) not in INTERLEAVED:
        return {}
    heads: dict[str, int] = {}
    for layer in model.layers:
        attention = layer.attention
        heads[layer.full(attention.q.name)] = attention.sizes.heads
        heads[layer.full(attention.k.name)] = attention.sizes.kv_heads
    return heads


def _interleave(tensor: Tensor, heads: int | None) -> Tensor:
    """Put rows of queries or keys in the order of llama.cpp's rotation.

    Args:
        tensor: rows first.
        heads: number of heads in the rows; None: the order stays.
    """
    if heads is None:
        return tensor
    half = tensor.shape[0] // heads // 2
    return (
        tensor.reshape(heads, 2, half, *tensor.shape[1:])
        .transpose(1, 2)
        .reshape(tensor.shape)
        .contiguous()
    )


def _read_back(
    gguf: Any, file: Path, checkpoint: Path, config: Mapping[str, Any], model: Architecture
) -> dict[str, Any]:
    """Dequantize every weight with the reader of `gguf`, and compare it with the checkpoint.

    Raises:
        ParityFailed: a weight of the model is not in the file.
    """
    way = choose_reference(checkpoint)
    weight_of = _stock_weights(checkpoint) if way == "stock" else None
    own = Weights(checkpoint, config)
    names = _names(gguf, model)
    modules = {name: module for module, name in names.items()}
    heads = _interleaved(model)
    kinds: dict[str, int] = {}
    worst = 0.0
    for tensor in gguf.GGUFReader(str(file)).tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        name, _, part = tensor.name.rpartition(".")
        if part == "weight":
            module = modules.pop(name)
            dense = weight_of(module) if weight_of else own.dense(module)
            expected = _interleave(dense, heads.get(module)).numpy()
            stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
            largest = np.abs(expected).max() or 1.0
            worst = max(worst, float(np.abs(expected - stored).max() / largest))
    if missing := sorted(
        module for module in modules.values() if module != model.head or not model.tied
    ):
        raise ParityFailed(
            f"{file.name}: the weight of {missing[0]} is missing",
            "please report it with the model's config.json",
        )
    return {"tensors": kinds, "largest_difference": worst, "reference": REFERENCES[way]}


def _stock_weights(checkpoint: Path) -> Callable[[str], Tensor]:
    """A function from a module's name to its float32 weight, as stock transformers loads it."""
    model = stock_model(checkpoint)
    return lambda module: model.get_submodule(module).weight.detach()
