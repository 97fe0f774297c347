"""A checkpoint as GGUF, for llama.cpp: F16, Q8_0 or Q4_0, written with the `gguf` package, whatever heads and neurons were pruned.

Symmetric 4-bit checkpoints with groups of a multiple of 32 become Q4_0 bit for bit: it stores (nibble - 8) x scale, a scale every 32
inputs, and the group's scale is simply repeated. What llama.cpp's rounding would lose on top is not lost.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
    read_family,
    write_json,
)
from ...checkpoints.layouts import PackedLinear
from ...checkpoints.loading import load_settings, stock_model
from ...errors import ParityFailed, Refused, UsageError
from ...models import Family, Shape
from ..onnx.reference import REFERENCES, choose_reference
from ..onnx.weights import Weights

__all__ = ["KINDS", "export_gguf"]

MODEL = "model.gguf"
KINDS = {"fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""Precision of the linear layers -> llama.cpp's name for it."""
ARCHITECTURES = {"llama": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3"}
INTERLEAVED = ("llama",)
"""Where llama.cpp turns neighbouring channels against each other, and transformers the two halves of a head."""
PRE_TOKENIZERS = {"qwen2": "qwen2", "qwen3": "qwen2", "llama": "llama-bpe"}
BLOCK = 32


def export_gguf(checkpoint: Path, out: Path, precision: str) -> dict[str, Any]:
    """Write a GGUF file and read it back.

    Args:
        checkpoint: a model directory.
        out: the directory to make.
        precision: `fp16`, `int8` or `int4`.

    Returns:
        `tensors`, how many there are of each kind, and `largest_difference` of a weight from the checkpoint's, relative to the
        largest weight of its tensor.

    Raises:
        UsageError: the precision is unknown here, or gguf is not installed.
        Refused: llama.cpp has no counterpart for the model, or a width does not divide into its blocks.
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
    family, config = read_family(checkpoint)
    if family.model_types[0] not in ARCHITECTURES:
        raise Refused(
            f"{checkpoint}: {family.model_types[0]} models are not written as GGUF here",
            f"one of {', '.join(ARCHITECTURES)}",
        )
    settings = load_settings(checkpoint)
    shape = family.shape(settings.to_dict())
    with atomic_directory(out) as folder:
        writer = gguf.GGUFWriter(str(folder / MODEL), _architecture(family, shape))
        _metadata(writer, checkpoint, family, settings.to_dict(), shape, precision)
        for name, array, kind in _tensors(
            gguf, Weights(checkpoint, config), config, family, shape, precision
        ):
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        told = _read_back(gguf, folder / MODEL, checkpoint, family, config, shape)
        copy_tokenizer(checkpoint, folder)
        provenance = {
            "edgewright": __version__,
            "kind": "artifact",
            "format": "gguf",
            "precision": precision,
            "checked": told,
            "source": {"name": checkpoint.name, "content_hash": content_hash(checkpoint)},
        }
        write_json(folder / PROVENANCE, provenance)
    return told


def _architecture(family: Family, shape: Shape) -> str:
    """What llama.cpp is told that the model is.

    Its qwen2 takes no other number of heads than the width has room for. Its llama does, and has the biases as well; so a Qwen2 with
    pruned heads goes as a llama, queries and keys turned as for one.
    """
    name = family.model_types[0]
    pruned = shape.num_attention_heads * shape.head_dim != shape.hidden_size
    return "llama" if name == "qwen2" and pruned else name


def _metadata(
    writer: Any,
    checkpoint: Path,
    family: Family,
    config: Mapping[str, Any],
    shape: Shape,
    precision: str,
) -> None:
    if any(
        kind.window and kind.window < int(config["max_position_embeddings"])
        for kind in family.layer_kinds(config)
    ):
        message = f"{checkpoint}: has layers with a sliding window, which llama.cpp would not apply to a {family.model_types[0]}"
        raise Refused(message, "--format onnx, or llama.cpp's own converter if it knows the model")
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") not in ("default", "linear"):
        raise Refused(
            f"{checkpoint}: rope_type `{rope['rope_type']}` is not written as GGUF here",
            "use llama.cpp's own converter",
        )
    writer.add_name(checkpoint.resolve().name)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type("linear")
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type({"fp16": 1, "int8": 7, "int4": 2}[precision])
    _tokenizer(writer, checkpoint, family, shape)


def _tokenizer(writer: Any, checkpoint: Path, family: Family, shape: Shape) -> None:
    """A byte-level BPE vocabulary from tokenizer.json; without one the file takes token ids only."""
    file = checkpoint / "tokenizer.json"
    told = json.loads(file.read_text()) if file.is_file() else {}
    model = told.get("model") or {}
    if model.get("type") != "BPE":
        writer.add_tokenizer_model("no_vocab")
        return
    added = {int(token["id"]): token["content"] for token in told["added_tokens"]}
    tokens = {index: text for text, index in model["vocab"].items()} | added
    names = [tokens.get(index, f"[PAD{index}]") for index in range(shape.vocab_size)]
    normal, control, unused = 1, 3, 5
    kinds = [
        control if index in added else normal if index in tokens else unused
        for index in range(shape.vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[family.model_types[0]])
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    )
    if ends := end_tokens(checkpoint):
        writer.add_eos_token_id(ends[0])
    template = checkpoint / "chat_template.jinja"
    if template.is_file():
        writer.add_chat_template(template.read_text())


def _names(gguf: Any, family: Family, shape: Shape) -> Mapping[str, str]:
    """llama.cpp's name of every module, by ours."""
    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[_architecture(family, shape)])
    table = gguf.get_tensor_name_map(architecture, shape.num_hidden_layers)
    modules = [family.embedding, family.final_norm, family.head]
    for layer in range(shape.num_hidden_layers):
        parts = [
            family.attention_norm,
            family.mlp_norm,
            family.q,
            family.k,
            family.v,
            family.o,
            family.gate,
            family.up,
            family.down,
        ]
        modules += [
            family.full(layer, part) for part in [*parts, family.q_norm, family.k_norm] if part
        ]
    return {module: table.get_name(module) for module in modules}


def _tensors(
    gguf: Any,
    weights: Weights,
    config: Mapping[str, Any],
    family: Family,
    shape: Shape,
    precision: str,
) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, stored bytes and kind of every tensor."""
    kinds = gguf.GGMLQuantizationType
    linears = family.linear_modules(config)
    for module, name in _names(gguf, family, shape).items():
        bias = weights.vector(f"{module}.bias")
        if bias is not None:
            yield f"{name}.bias", _turned(bias, module, family, shape).numpy(), kinds.F32
        if module in linears:
            yield (f"{name}.weight", *_linear(gguf, weights, module, family, shape, precision))
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
    gguf: Any, weights: Weights, module: str, family: Family, shape: Shape, precision: str
) -> tuple[NDArray[Any], Any]:
    kind = getattr(gguf.GGMLQuantizationType, KINDS[precision])
    packed = weights.packed(module) if weights.is_packed(module) else None
    width = (packed.integers if packed else weights.tensor(f"{module}.weight")).shape[1]
    if precision != "fp16" and width % BLOCK:
        raise Refused(
            f"{module}: {width} inputs do not divide into blocks of {BLOCK}",
            "prune to such a width, or --precision fp16",
        )
    if (
        precision == "int4"
        and packed
        and packed.bits == 4
        and packed.sym
        and packed.g_idx is None
        and packed.group_size % BLOCK == 0
    ):
        return _q4_0(packed, module, family, shape), kind
    return gguf.quants.quantize(
        _turned(weights.dense(module), module, family, shape).numpy(), kind
    ), kind


def _q4_0(packed: PackedLinear, module: str, family: Family, shape: Shape) -> NDArray[np.uint8]:
    """Our integers as Q4_0 blocks: a half-precision scale, then 16 bytes whose low nibbles are the first 16 inputs."""
    integers = (
        _turned(packed.integers, module, family, shape)
        .numpy()
        .reshape(packed.integers.shape[0], -1, BLOCK)
    )
    scales = (
        _turned(packed.scales, module, family, shape)
        .numpy()
        .astype(np.float16)
        .repeat(packed.group_size // BLOCK, 1)
    )
    nibbles = integers[..., : BLOCK // 2] | (integers[..., BLOCK // 2 :] << 4)
    blocks = np.concatenate([scales[..., None].view(np.uint8), nibbles], -1)
    return np.ascontiguousarray(blocks.reshape(len(integers), -1), np.uint8)


def _turned(tensor: Tensor, module: str, family: Family, shape: Shape) -> Tensor:
    """Rows of queries and keys in the order that llama.cpp rotates them in; anything else as it is."""
    heads = {family.q: shape.num_attention_heads, family.k: shape.num_key_value_heads}
    count = next((number for part, number in heads.items() if module.endswith(f".{part}")), 0)
    if not count or _architecture(family, shape) not in INTERLEAVED:
        return tensor
    return (
        tensor.reshape(count, 2, shape.head_dim // 2, *tensor.shape[1:])
        .transpose(1, 2)
        .reshape(tensor.shape)
        .contiguous()
    )


def _read_back(
    gguf: Any,
    file: Path,
    checkpoint: Path,
    family: Family,
    config: Mapping[str, Any],
    shape: Shape,
) -> dict[str, Any]:
    """Dequantize every matrix with the package's own reader and compare it with the checkpoint.

    Raises:
        ParityFailed: a weight of the model is not in the file.
    """
    way = choose_reference(checkpoint)
    weight_of = _stock_weights(checkpoint) if way == "stock" else None
    own = Weights(checkpoint, config)
    names = _names(gguf, family, shape)
    modules = {name: module for module, name in names.items()}
    kinds: dict[str, int] = {}
    worst = 0.0
    for tensor in gguf.GGUFReader(str(file)).tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        name, _, part = tensor.name.rpartition(".")
        if part == "weight":
            module = modules.pop(name)
            dense = weight_of(module) if weight_of else own.dense(module)
            ours = _turned(dense, module, family, shape).numpy()
            theirs = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(ours.shape)
            worst = max(worst, float(np.abs(ours - theirs).max() / (np.abs(ours).max() or 1.0)))
    if missing := sorted(
        module for module in modules.values() if module != family.head or not shape.tied
    ):
        raise ParityFailed(
            f"{file.name}: the weight of {missing[0]} is missing",
            "please report it with the model's config.json",
        )
    return {"tensors": kinds, "largest_difference": worst, "reference": REFERENCES[way]}


def _stock_weights(checkpoint: Path) -> Callable[[str], Tensor]:
    """The float32 weights of a checkpoint as stock transformers loads them, by full module name."""
    model = stock_model(checkpoint)
    return lambda module: model.get_submodule(module).weight.detach()
