"""The tensors of a GGUF file: their names, the order of their rows, and their stored bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from numpy.typing import NDArray
from torch import Tensor

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused, UsageError
from ...models import Architecture
from ...models.blocks import Attention, Linear, Norm
from ...models.layer import Layer
from ...models.llama_cpp import LlamaCpp
from ..onnx.weights import Weights
from ..quantized_source import require_blocks
from .blocks import BLOCK, block_kind, packed_blocks

__all__ = ["Entry", "How", "Stored", "entries", "tensors"]


How = Literal["copied", "rounded", "kept", "beside"]
"""How a tensor got into the file: the checkpoint's integers bit for bit; rounded to blocks; in
floating point as in the checkpoint; or it is no matrix."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it is written.

    Attributes:
        name: in the file.
        array: its stored bytes.
        kind: a quantization type of GGML.
        how: how it got there.
    """

    name: str
    array: NDArray[Any]
    kind: Any
    how: How


@dataclass(frozen=True)
class Entry:
    """One module of the model and its place in the file.

    Attributes:
        name: in the file, without `.weight`.
        module: in a loaded model.
        stored: in the checkpoint's files; another name only for a tied table.
        linear: whether it takes the precision that was asked for.
        bias: whether it may have one.
        rows: the rows of `stored` that belong to it; None: all.
        heads: heads whose rows change their order (see `_interleave`); None: the order stays.
        offset: what is added to the stored weight, because llama.cpp adds nothing.
        factor: what the sum is multiplied by.
    """

    name: str
    module: str
    stored: str
    linear: bool = False
    bias: bool = True
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
            found.append(
                Entry(names.get_name(name), module, module, True, linear.bias, rows, heads)
            )
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


def tensors(gguf: Any, weights: Weights, found: list[Entry], precision: str) -> Iterator[Stored]:
    """Every tensor of the file.

    Args:
        gguf: the package.
        weights: the checkpoint.
        found: see `entries`.
        precision: of the linear layers: `fp16`, `int8` or `int4`.

    Raises:
        UsageError: a layer has a bias that the model has not.
        Refused: a width is no multiple of the block size, or the integers of a layer fit no block.
    """
    for entry in found:
        bias = weights.vector(f"{entry.stored}.bias")
        if bias is not None and not entry.bias:
            raise UsageError(
                f"the weights do not match config.json: unexpected `{entry.stored}.bias`",
                "restore the model directory",
            )
        if bias is not None:
            plain = replace(entry, offset=0.0).as_written(bias).numpy()
            yield Stored(f"{entry.name}.bias", plain, gguf.GGMLQuantizationType.F32, "beside")
        yield _weight(gguf, weights, entry, precision)


def _weight(gguf: Any, weights: Weights, entry: Entry, precision: str) -> Stored:
    """The weight of a module."""
    module = entry.stored
    packed = weights.packed(module) if weights.is_packed(module) else None
    if packed and precision != "fp16" and (own := _own_kind(packed, entry, precision)):
        kind = getattr(gguf.GGMLQuantizationType, own)
        blocks = packed_blocks(_as_written(packed, entry))
        return Stored(f"{entry.name}.weight", blocks, kind, "copied")
    dense = entry.as_written(packed.dequantize() if packed else weights.dense(module))
    name = _dense_kind(dense, entry, precision, packed)
    kind = getattr(gguf.GGMLQuantizationType, name)
    how: How = "beside" if dense.ndim == 1 else "rounded" if name == "Q8_0" else "kept"
    return Stored(f"{entry.name}.weight", gguf.quants.quantize(dense.numpy(), kind), kind, how)


def _own_kind(packed: PackedLinear, entry: Entry, precision: str) -> str | None:
    """The blocks that hold the integers of a packed layer; None: it is rounded to other ones.

    Raises:
        Refused: it is a linear layer of an INT4 file, and no blocks hold its integers.
    """
    own = block_kind(packed)
    if precision == "int8":
        return own if own == "Q8_0" else None
    if own is None and entry.linear and packed.bits != 8:
        require_blocks(packed, entry.stored)
        raise Refused(
            f"{entry.stored}: groups of {packed.group_size}, where a block of GGUF has {BLOCK}",
            f"quantize again with --group-size {BLOCK} or a multiple of it",
        )
    return own


def _dense_kind(dense: Tensor, entry: Entry, precision: str, packed: PackedLinear | None) -> str:
    """What floating-point values become: linear layers by the precision, tables get 8 bits.

    In an INT4 file, a linear layer that is not packed was kept in floating point on purpose.

    Raises:
        Refused: a linear layer does not divide into blocks.
    """
    if dense.ndim == 1:
        return "F32"
    whole = dense.shape[-1] % BLOCK == 0
    if precision == "fp16" or (precision == "int4" and entry.linear and packed is None):
        return "F16"
    if entry.linear and not whole:
        raise Refused(
            f"{entry.stored}: {dense.shape[-1]} inputs do not divide into blocks of {BLOCK}",
            "prune to such a width, or --precision fp16",
        )
    return "Q8_0" if whole else "F16"


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
