"""Linear layers as graph nodes: dense, INT4 or static INT8 from a checkpoint, or dynamic INT8.

INT4 and static INT8 weights are copied bit for bit. Weights are stored [in, out], as MatMul reads
them, so no Transpose is needed.

Dynamic INT8 activations get one scale for each token, in plain operators, instead of
DynamicQuantizeLinear's one scale for all tokens. The first token of a text often has activations a
hundred times larger than the others, and a shared scale would round the others to zero. On Gemma 3
270M the shared scale costs 0.19 nats of KL, a scale per token 0.04, for 20 to 40 % more time in
these layers. It also makes a row's result independent of the other rows and of padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from ...checkpoints.layouts import PackedLinear
from ...errors import Refused
from ...models import Architecture, Linear
from ..quantized_source import require_blocks
from .builder import GraphBuilder
from .precision import Precision
from .weights import Weights

__all__ = ["Int4Blocks", "Linears", "int4_blocks", "quantize_int8", "split_parts", "stored"]


def stored(tensor: Tensor, dtype: int, name: str) -> NDArray[Any]:
    """Convert a floating-point tensor to an array of the ONNX type `dtype`.

    Raises:
        Refused: a value does not fit that type.
    """
    with np.errstate(over="ignore"):  # checked below, to name the tensor
        array = tensor.numpy().astype(helper.tensor_dtype_to_np_dtype(dtype), copy=False)
    if dtype == TensorProto.FLOAT16 and not np.isfinite(array).all():
        raise Refused(
            f"`{name}` holds values that fp16 cannot represent (above 65504)",
            "export with --precision fp32",
        )
    return array


@dataclass(frozen=True)
class Int4Blocks:
    """A packed layer as blocked DequantizeLinear (axis 0) reads it.

    Attributes:
        nibbles: signed nibbles of [in, out] in row order, the lower nibble first, uint8 [in * out /
            2].
        scales: the unchanged scales of the checkpoint, float32 [in / group_size, out].
        zeros: zero points like the nibbles, uint8 [in / group_size * out / 2]; None: all are 0.
    """

    nibbles: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.uint8] | None


def int4_blocks(packed: PackedLinear, name: str, zero_points: bool = True) -> Int4Blocks:
    """Store a packed layer as blocked DequantizeLinear reads it.

    Args:
        packed: the layer.
        name: its name, for the message.
        zero_points: whether it may have other zero points than 8.

    Raises:
        Refused: the layer is not 4-bit, its groups are permuted, its sizes do not fit, or it has
            zero points.
    """
    require_blocks(packed, name)
    if not zero_points and not packed.sym:
        raise Refused(
            f"{name}: asymmetric weights, and TensorRT's INT4 is symmetric",
            "quantize again with --method gptq, or with --sym",
        )
    size = packed.group_size
    if size < 16 or size & (size - 1) or packed.integers.shape[0] % 2:
        raise Refused(
            f"{name}: groups of {size} on {packed.integers.shape[0]} outputs; blocks must be a "
            "power of two from 16 on, and the number of outputs even",
            "quantize again with --group-size 128",
        )
    return Int4Blocks(
        _signed_nibbles(packed.integers),
        packed.scales.t().contiguous().numpy(),
        None if packed.sym else _signed_nibbles(packed.zeros),
    )


def _signed_nibbles(values: Tensor) -> NDArray[np.uint8]:
    """Integers [out, n] minus 8 as pairs of nibbles of [n, out]."""
    # In two's complement, subtracting 8 flips the highest bit of a nibble.
    nibbles = (values ^ 8).t().reshape(-1, 2)
    return (nibbles[:, 0] | (nibbles[:, 1] << 4)).numpy()


def quantize_int8(weight: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round a weight, float32 [out, in], to 8 bits with one symmetric scale per output.

    The integers are unsigned although the range is symmetric. On x86 processors without VNNI, ONNX
    Runtime multiplies unsigned by signed bytes with instructions that saturate sums of two products
    at 16 bits (top-1 agreement of a tiny model fell to 0.7).

    Returns:
        Integers around 128, uint8 [in, out], and scales, float32 [out].
    """
    scales = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * 127) / 127
    rounded = (weight / scales.unsqueeze(1)).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    return rounded.t().contiguous().numpy(), scales.numpy()


def split_parts(
    graph: GraphBuilder, outputs: list[str], whole: Sequence[Linear], parts: Sequence[Linear]
) -> list[str]:
    """The outputs of linear layers of which some are stored as one.

    Args:
        graph: the graph to add nodes to.
        outputs: of the stored layers.
        whole: the stored layers.
        parts: the layers in them, in order.
    """
    found: list[str] = []
    for linear, output in zip(whole, outputs, strict=True):
        sizes = [part.out_features for part in parts if part.stored_name == linear.name]
        if len(sizes) == 1:
            found.append(output)
            continue
        with graph.at(output.partition("/")[0]):
            names = [None] * len(sizes)
            found += graph.nodes("Split", output, graph.constant(sizes), outputs=names, axis=-1)
    return found


def parallel_readers(model: Architecture) -> list[tuple[str, ...]]:
    """For each layer whose attention and FFN read one value, the modules that do so."""
    layers = [layer for layer in model.layers if layer.parallel]
    return [tuple(map(layer.full, layer.input_groups[0])) for layer in layers]


class Linears:
    """Adds linear layers to a graph in one precision.

    Args:
        graph: the graph.
        weights: the checkpoint.
        precision: of the layers.
        groups: modules that read one value although they are applied apart (parallel blocks).

    Attributes:
        low_bit: number of products with low-bit weights so far.
    """

    def __init__(
        self,
        graph: GraphBuilder,
        weights: Weights,
        precision: Precision,
        groups: Iterable[tuple[str, ...]] = (),
    ) -> None:
        self._graph, self._weights, self._precision = graph, weights, precision
        self._group_of = {module: group for group in groups for module in group}
        self._made: dict[str, str] = {}
        self.low_bit = 0

    def apply(self, value: str, modules: Sequence[str]) -> list[str]:
        """The outputs of linear layers that all read `value` ([..., in], activation type)."""
        linear = self._precision.linear
        if linear == "int8" and all(self._weights.is_packed(module) for module in modules):
            outputs = self._with_group(value, modules)
            return [
                self._biased(result, module)
                for result, module in zip(outputs, modules, strict=True)
            ]
        # Layers that read the same activation share its quantization.
        with self._graph.at(modules[0]):
            quantized = self._quantize(value) if linear == "int8-dynamic" else ("", "")
        outputs = []
        for module in modules:
            with self._graph.at(module):
                if linear == "int8-dynamic":
                    result = self._dynamic(quantized, module)
                elif linear == "int8" and self._weights.is_packed(module):
                    (result,) = self._static(value, [module])
                elif linear == "int4" and self._weights.bits(module) == 4:
                    result = self._int4(value, module)
                else:
                    result = self.dense(value, module)
                outputs.append(self._biased(result, module))
        return outputs

    def dense(self, value: str, module: str) -> str:
        """A product with the dense weight of `module`, in the activation type."""
        name = f"{module}.weight"
        weight = stored(self._weights.dense(module).t(), self._precision.activations, name)
        return self._graph.node("MatMul", value, self._graph.weight(name, weight))

    def _int4(self, value: str, module: str) -> str:
        packed = self._weights.packed(module)
        blocks = int4_blocks(packed, module, self._precision.zero_points)
        out, width = packed.integers.shape
        graph, name = self._graph, f"{module}.weight"
        parts = [
            graph.weight(name, blocks.nibbles, TensorProto.INT4, (width, out)),
            graph.weight(
                f"{name}_scale",
                stored(torch.from_numpy(blocks.scales), self._precision.activations, module),
            ),
        ]
        if blocks.zeros is not None:
            shape = blocks.scales.shape
            parts.append(graph.weight(f"{name}_zero", blocks.zeros, TensorProto.INT4, shape))
        self.low_bit += 1
        dense = graph.node("DequantizeLinear", *parts, axis=0, block_size=packed.group_size)
        return graph.node("MatMul", value, dense)

    def _with_group(self, value: str, modules: Sequence[str]) -> list[str]:
        """`_static`, which also makes the outputs that others of the group will ask for."""
        if modules[0] not in self._made:
            group = self._group_of.get(modules[0], modules)
            together = [module for module in group if self._weights.is_packed(module)]
            self._made |= zip(together, self._static(value, together), strict=True)
        return [self._made[module] for module in modules]

    def _static(self, value: str, modules: Sequence[str]) -> list[str]:
        """Products of 8-bit integers as TensorRT reads them.

        Integers are symmetric; inputs have one scale, weights one per output. Layers whose inputs
        have the same scale become one product: ONNX Runtime makes no integer products of several
        that share a quantized input.
        """
        g = self._graph
        layers = {module: self._weights.packed(module) for module in modules}
        steps = {
            module: packed.inputs.scale
            for module, packed in layers.items()
            if packed.inputs and packed.inputs.scale is not None
        }
        assert len(steps) == len(layers), "see _check_source"
        outputs: dict[str, str] = {}
        for step in dict.fromkeys(steps.values()):
            alike = [module for module in modules if steps[module] == step]
            with g.at(alike[0]):
                product = self._rounded(value, step, [layers[module] for module in alike], alike[0])
                sizes = g.constant([len(layers[module].integers) for module in alike])
                split = (
                    g.nodes("Split", product, sizes, outputs=[None] * len(alike), axis=-1)
                    if len(alike) > 1
                    else [product]
                )
            outputs |= zip(alike, split, strict=True)
        return [outputs[module] for module in modules]

    def _rounded(self, value: str, step: float, layers: Sequence[PackedLinear], name: str) -> str:
        """`value`, rounded with the scale `step`, times the joined weights of layers."""
        g = self._graph
        half = self._precision.activations == TensorProto.FLOAT16
        scale = g.constant(step, np.float16 if half else np.float32)
        zero = g.constant(0, np.int8)
        inputs = g.node(
            "DequantizeLinear", g.node("QuantizeLinear", value, scale, zero), scale, zero
        )
        integers = (
            torch.cat([(packed.integers.to(torch.int16) - 128).to(torch.int8) for packed in layers])
            .t()
            .contiguous()
        )
        scales = torch.cat([packed.scales.view(-1) for packed in layers])
        weight = g.weight(f"{name}.weight", integers.numpy())
        weight_scale = g.weight(
            f"{name}.weight_scale",
            stored(scales, self._precision.activations, f"{name}.weight_scale"),
        )
        self.low_bit += 1
        return g.node(
            "MatMul",
            inputs,
            g.node(
                "DequantizeLinear",
                weight,
                weight_scale,
                g.constant(np.zeros(len(scales)), np.int8),
                axis=1,
            ),
        )

    def _quantize(self, value: str) -> tuple[str, str]:
        """Activations as uint8 around 128, and the scale of each token, float32 [..., 1]."""
        g = self._graph
        # Unsigned, although the range is symmetric: on x86 a product of two signed matrices is ten
        # times slower.
        peak = g.reduce("ReduceMax", g.node("Abs", value))
        scale = g.node(
            "Mul",
            g.node("Max", peak, g.constant(1e-30, np.float32)),
            g.constant(1 / 127, np.float32),
        )
        centred = g.node(
            "Add", g.node("Round", g.node("Div", value, scale)), g.constant(128, np.float32)
        )
        return g.cast(centred, TensorProto.FLOAT, TensorProto.UINT8), scale

    def _dynamic(self, quantized: tuple[str, str], module: str) -> str:
        g = self._graph
        value, value_scale = quantized
        integers, scales = quantize_int8(self._weights.dense(module))
        weight = g.weight(f"{module}.weight", integers)
        scale = g.weight(f"{module}.weight_scale", scales)
        middle = g.constant(128, np.uint8)
        product = g.node("MatMulInteger", value, weight, middle, middle)
        product = g.node("Mul", g.cast(product, TensorProto.INT32, TensorProto.FLOAT), scale)
        self.low_bit += 1
        return g.node("Mul", product, value_scale)

    def _biased(self, value: str, module: str) -> str:
        name = f"{module}.bias"
        bias = self._weights.vector(name)
        if bias is None:
            return value
        return self._graph.node(
            "Add", value, self._graph.weight(name, stored(bias, self._precision.activations, name))
        )
