"""The tensors of a GGUF file: their names, the order of their rows, and their stored bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused
from ...models import Architecture
from ...models.blocks import Attention, Linear, Norm
from ...models.layer import Layer
from ...models.llama_cpp import LlamaCpp
from ..onnx.weights import Weights
from .blocks import BLOCK, block_kind, packed_blocks

__all__ = ["KINDS", "Entry", "entries", "tensors"]

KINDS = {"fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""llama.cpp's name for each precision of the linear layers."""


@dataclass(frozen=True)
class Entry:
    """One module of the model and its place in the file.

    Attributes:
        name: in the file, without `.weight`.
        module: in a loaded model.
        stored: in the checkpoint's files; another name only for a tied table.
        linear: whether it takes the precision that was asked for.
        rows: the rows of `stored` that belong to it; None: all.
        heads: heads whose rows change their order (see `_interleave`); None: the order stays.
        offset: what is added to the stored weight, because llama.cpp adds nothing.
        factor: what the sum is multiplied by.
    """

    name: str
    module: str
    stored: str
    linear: bool = False
    rows: slice | None = None
    heads: int | None = None
    offset: float = 0.0
    factor: float = 1.0

    def as_written(self, weight: Tensor) -> Tensor:
        """A weight or bias of the model in the values and the order of the file."""
        if self.rows:
            weight = weight[self.rows]
        if self.offset or self.factor != 1.0:
            weight = (weight + self.offset) * self.factor
        return _interleave(weight, self.heads)


def entries(gguf: Any, model: Architecture, target: LlamaCpp, weights: Weights) -> list[Entry]:
    """Every module of a model that has tensors in the file.

    Args:
        gguf: the package.
        model: the architecture.
        target: what it is for llama.cpp.
        weights: the checkpoint, of which a tied table may have either name.
    """
    kind = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[target.name]
    names = gguf.get_tensor_name_map(kind, len(model.layers))
    table = model.embedding
    if model.tied and not (f"{table}.weight" in weights or weights.is_packed(table)):
        table = model.head
    found = [Entry(names.get_name(model.embedding), model.embedding, table)]
    if not model.tied:
        found.append(Entry(names.get_name(model.head), model.head, model.head))
    found.append(_norm(names, model.final_norm, model.final_norm.name))
    scale = target.query_scale(model)
    for layer in model.layers:
        attention = layer.attention
        for linear in layer.linears if target.fused else _apart(layer):
            name, module = (layer.full(name) for name in (linear.name, linear.stored_name))
            rows = linear.rows if linear.fused else None
            heads = _reordered(attention, linear) if target.interleaved else None
            found.append(Entry(names.get_name(name), module, module, True, rows, heads))
        norms = [norm for branch in layer.branches for norm in (branch.norm, branch.post_norm)]
        shared = dict.fromkeys(norm for norm in norms if norm)  # parallel blocks have one norm
        found += [_norm(names, norm, layer.full(norm.name)) for norm in shared]
        for norm in (attention.q_norm, attention.k_norm):
            if norm:
                factor = attention.query_scale / scale if norm is attention.q_norm else 1.0
                found.append(_norm(names, norm, layer.full(norm.name), factor))
    return found


def _apart(layer: Layer) -> list[Linear]:
    """The linear layers of a decoder layer, those that are stored fused one by one."""
    attention, ffn = layer.attention, layer.dense_ffn
    assert ffn, "a mixture of experts is not expressible"
    parts = (attention.q, attention.k, attention.v, attention.o, ffn.gate, ffn.up, ffn.down)
    return [part for part in parts if part]


def _reordered(attention: Attention, linear: Linear) -> int | None:
    """The heads of a linear layer whose rows llama.cpp has in another order; see `Entry`."""
    if attention.rotary and attention.rotary.interleaved:
        return None
    heads = {attention.q.name: attention.sizes.heads, attention.k.name: attention.sizes.kv_heads}
    return heads.get(linear.name)


def _norm(names: Any, norm: Norm, full: str, factor: float = 1.0) -> Entry:
    factor = 1.0 if abs(factor - 1) < 1e-6 else factor
    return Entry(names.get_name(full), full, full, offset=norm.offset, factor=factor)


def tensors(
    gguf: Any, weights: Weights, found: list[Entry], precision: str
) -> Iterator[tuple[str, NDArray[Any], Any]]:
    """Name, stored bytes and kind (a quantization type of GGML) of every tensor.

    Args:
        gguf: the package.
        weights: the checkpoint.
        found: see `entries`.
        precision: of the linear layers; one of `KINDS`.
    """
    kinds = gguf.GGMLQuantizationType
    for entry in found:
        bias = weights.vector(f"{entry.stored}.bias")
        if bias is not None:
            yield (
                f"{entry.name}.bias",
                replace(entry, offset=0.0).as_written(bias).numpy(),
                kinds.F32,
            )
        if entry.linear:
            yield (f"{entry.name}.weight", *_linear(gguf, weights, entry, precision))
            continue
        dense = entry.as_written(weights.dense(entry.stored))
        small = precision == "fp16" or dense.shape[-1] % BLOCK
        kind = kinds.F32 if dense.ndim == 1 else kinds.F16 if small else kinds.Q8_0
        yield f"{entry.name}.weight", gguf.quants.quantize(dense.numpy(), kind), kind


def _linear(gguf: Any, weights: Weights, entry: Entry, precision: str) -> tuple[NDArray[Any], Any]:
    """Stored bytes and kind of the weight of a linear layer."""
    kinds, module = gguf.GGMLQuantizationType, entry.stored
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
            return packed_blocks(_as_written(packed, entry)), getattr(kinds, own)
        kind = kinds.Q8_0 if packed.bits == 8 else kind
    return gguf.quants.quantize(entry.as_written(weights.dense(module)).numpy(), kind), kind


def _as_written(packed: PackedLinear, entry: Entry) -> PackedLinear:
    """A packed weight with the rows and the order of the file."""
    return replace(
        packed,
        integers=entry.as_written(packed.integers),
        scales=entry.as_written(packed.scales),
        zeros=entry.as_written(packed.zeros),
    )


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
