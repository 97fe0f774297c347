"""Build an ONNX graph: nodes with readable names, and large weights in one file beside the model.

Weights are written to disk when they are added. So writing a graph needs memory for one tensor, not
for the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from .opset import ir_version_of

__all__ = ["GraphBuilder"]

INLINE_BYTES = 1024
"""Larger weights go to the data file."""
ALIGNMENT = 4096
"""Runtimes map the data file into memory, and a tensor at the start of a page needs no copy."""


class GraphBuilder:
    """Collects the nodes and weights of one graph. Values are passed by their names.

    Args:
        data: the open file that large weights are appended to.
        data_name: that file's name, relative to the model file.
        opset: of the standard operators.

    Attributes:
        metadata: properties in the model file, which `OnnxDecoder` reads.
    """

    def __init__(self, data: BinaryIO, data_name: str, opset: int) -> None:
        self._data, self._data_name, self._opset = data, data_name, opset
        self._scope = ""
        self._domains = {""}
        self.metadata: dict[str, str] = {}
        self._taken: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    @contextmanager
    def at(self, scope: str) -> Iterator[None]:
        """Name the nodes of this block after the module `scope`, which makes profiles readable."""
        outer, self._scope = self._scope, scope
        try:
            yield
        finally:
            self._scope = outer

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare a graph input; strings in `shape` name dynamic dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> None:
        """Declare that the value `name` leaves the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output; return the output's name (None: made from the scope)."""
        return self.nodes(op, *inputs, outputs=[output], **attributes)[0]

    def nodes(
        self,
        op: str,
        *inputs: str,
        outputs: Sequence[str | None],
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node and return the names of its outputs.

        Args:
            op: the operator.
            inputs: names of values; empty: an optional input that is left out.
            outputs: names of its outputs; None: made from the scope; empty: left out.
            domain: of the operator; empty for standard operators.
            attributes: of the node.
        """
        name = self._unique(f"{self._scope}/{op}")
        results = [f"{name}:{i}" if output is None else output for i, output in enumerate(outputs)]
        self._domains.add(domain)
        self._nodes.append(
            helper.make_node(op, inputs, results, name=name, domain=domain, **attributes)
        )
        return results

    def reduce(self, op: str, value: str) -> str:
        """`op` over the last axis, with size 1 kept. Before opset 18 axes are an attribute."""
        if self._opset < 18:
            return self.node(op, value, axes=[-1], keepdims=1)
        return self.node(op, value, self.constant([-1]), keepdims=1)

    def cast(self, value: str, source: int, target: int) -> str:
        """Cast `value` from type `source` to `target`; adds no node if they are the same."""
        return value if source == target else self.node("Cast", value, to=target)

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """A small constant; equal constants are stored once."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.weight(f"constant.{len(self._constants)}", array)
        return self._constants[key]

    def weight(
        self,
        name: str,
        array: NDArray[Any],
        dtype: int | None = None,
        shape: Sequence[int] | None = None,
    ) -> str:
        """Store a weight now and return its name.

        Args:
            name: of the initializer.
            array: the values, or their packed bytes if numpy has no such type.
            dtype: the ONNX type, if `array` holds packed bytes.
            shape: the logical shape, if `array` holds packed bytes.
        """
        array = np.ascontiguousarray(array) if array.ndim else array
        tensor = TensorProto(name=name, dims=list(array.shape if shape is None else shape))
        tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype) if dtype is None else dtype
        if array.nbytes < INLINE_BYTES:
            tensor.raw_data = array.tobytes()
        else:
            self._append(tensor, array)
        self._initializers.append(tensor)
        return name

    def alias(self, name: str, of: str, shape: Sequence[int]) -> str:
        """Another name and shape for the weight `of`, without storing it again."""
        source = next(tensor for tensor in self._initializers if tensor.name == of)
        copy = TensorProto()
        copy.CopyFrom(source)
        copy.name, copy.dims[:] = name, shape
        self._initializers.append(copy)
        return name

    def _append(self, tensor: onnx.TensorProto, array: NDArray[Any]) -> None:
        self._data.write(b"\0" * (-self._data.tell() % ALIGNMENT))
        place = {
            "location": self._data_name,
            "offset": str(self._data.tell()),
            "length": str(array.nbytes),
        }
        # As bytes, because numpy has no buffer of bf16.
        self._data.write(array.reshape(-1).view(np.uint8).data)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)

    def _unique(self, name: str) -> str:
        seen = self._taken.get(name, 0)
        self._taken[name] = seen + 1
        return f"{name}.{seen}" if seen else name

    def model(self, graph_name: str, producer_version: str) -> onnx.ModelProto:
        """The finished model, whose large weights are references into the data file."""
        graph = helper.make_graph(
            self._nodes, graph_name, self._inputs, self._outputs, self._initializers
        )
        model = helper.make_model(
            graph,
            ir_version=ir_version_of(self._opset),
            opset_imports=[
                helper.make_opsetid(domain, 1 if domain else self._opset)
                for domain in sorted(self._domains)
            ],
            producer_name="edgewright",
            producer_version=producer_version,
        )
        helper.set_model_props(model, self.metadata)
        return model
