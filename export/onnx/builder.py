"""An ONNX graph under construction: nodes with readable names, small constants inside, large weights in one file beside it.

Weights go to disk the moment they are added, so writing a graph needs memory for one tensor, not for the model.
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
# Runtimes map the data file into memory; a tensor that starts on a page needs no copy.
ALIGNMENT = 4096


class GraphBuilder:
    """Collects nodes and weights of one graph; values are passed around by their names.

    Args:
        data: the open file that large weights are appended to.
        data_name: that file's name, relative to the model file.
        opset: of the standard operators.

    Attributes:
        metadata: what the model file says of itself to whoever runs it.
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
        """Name the nodes added inside the block after the module `scope`, so that a profile can be read."""
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
        """Add a node with one output and return the name of that output (`output`, or one made from the scope)."""
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
            inputs: names of values; an empty one where an optional input is left out.
            outputs: names of its outputs; made from the scope where None, left out where empty.
            domain: of the operator; the standard ones have none.
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
        """`op` over the last axis, which stays; that it is an input came with opset 18."""
        if self._opset < 18:
            return self.node(op, value, axes=[-1], keepdims=1)
        return self.node(op, value, self.constant([-1]), keepdims=1)

    def cast(self, value: str, source: int, target: int) -> str:
        """`value` of type `source` as type `target`; no node where they are the same."""
        return value if source == target else self.node("Cast", value, to=target)

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """A small constant, stored once however often it is asked for."""
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
            array: the values, or their packed bytes where numpy has no such type.
            dtype: the ONNX type, where `array` holds packed bytes.
            shape: the logical shape, where `array` holds packed bytes.
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
        """The weight `of` under another name and in another shape, stored once."""
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
        self._data.write(
            array.reshape(-1).view(np.uint8).data
        )  # as bytes: numpy gives no buffer of bf16
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
