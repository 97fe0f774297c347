"""A double of the module `tensorrt`, over ONNX Runtime.

It has what the bundle's programs call, under the same names (a test compares them with TensorRT for
RTX's module), and is as strict as NVIDIA's documentation: shapes within the profile, aligned
addresses inside of one allocation, graphs captured after a run and from a context that never
changes. What is asked of a stream is done when the stream is waited for, not before.

A file `tensorrt.py` that imports everything from here is a machine with TensorRT.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
from cudart_double import ALIGNMENT, Cudart
from trtexec_double import COMPUTE, VERSION, Shapes

__version__ = VERSION
DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}
ONNX_TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64"}


class DataType(enum.Enum):
    """Types of tensors."""

    FLOAT = 0
    HALF = 1
    INT64 = 2


class TensorIOMode(enum.Enum):
    """Whether a tensor is an input."""

    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    """Who owns the memory of intermediate results."""

    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class ILogger:
    """The base of loggers."""

    class Severity(enum.IntEnum):
        """The lower, the worse."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: Any, message: str) -> None:
        """A message."""
        raise NotImplementedError


class Runtime:
    """Loads engines."""

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        """The engine, or None and a message in the log."""
        try:
            content = json.loads(bytes(serialized_engine))
        except ValueError:
            return self._refused("Serialization assertion header.magicTag == kEXPECTED failed")
        if content["version"] != __version__:
            return self._refused(
                f"Trying to load an engine created with incompatible serialization version "
                f"({content['version']} != {__version__})"
            )
        if tuple(content["compute"]) != COMPUTE:
            expecting, got = (".".join(map(str, one)) for one in (content["compute"], COMPUTE))
            return self._refused(
                "The engine plan file is generated on an incompatible device, expecting compute "
                f"{expecting} got compute {got}, please rebuild."
            )
        return ICudaEngine(content, self._logger)

    def _refused(self, message: str) -> None:
        self._logger.log(ILogger.Severity.ERROR, message)


class ICudaEngine:
    """A loaded engine."""

    device_memory_size_v2 = 4096

    def __init__(self, content: dict[str, Any], logger: ILogger) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = ort.InferenceSession(content["onnx"], options)
        self.profiles: list[Shapes] = content["profiles"]
        self.logger = logger
        self.values = {
            value.name: value for value in [*self.session.get_inputs(), *self.session.get_outputs()]
        }
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.contexts: list[IExecutionContext] = []

    @property
    def num_optimization_profiles(self) -> int:
        """Number of profiles."""
        return len(self.profiles)

    @property
    def num_io_tensors(self) -> int:
        """Number of inputs and outputs."""
        return len(self.values)

    def get_tensor_name(self, index: int) -> str:
        """The name of a tensor."""
        return list(self.values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        """Whether a tensor is an input."""
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        """The type of a tensor."""
        return DataType[ONNX_TYPES[self.values[name].type]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """The shape, with -1 for what is dynamic."""
        return tuple(one if isinstance(one, int) else -1 for one in self.values[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        """Smallest, typical and largest shape of an input."""
        assert name in self.inputs
        return [tuple(shape) for shape in self.profiles[profile_index][name]]

    def create_execution_context(
        self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        """A context."""
        self.contexts.append(IExecutionContext(self, strategy))
        return self.contexts[-1]

    def create_runtime_config(self) -> SimpleNamespace:
        """How TensorRT for RTX runs."""
        return SimpleNamespace(cuda_graph_strategy=None)


class IExecutionContext:
    """Runs an engine with shapes and addresses of its own."""

    def __init__(self, engine: ICudaEngine, strategy: Any) -> None:
        self._engine = engine
        self._needs_memory = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._flushed = False
        self.captures = 0
        self.runs: list[dict[str, tuple[int, ...]]] = []

    def _error(self, message: str) -> bool:
        self._engine.logger.log(ILogger.Severity.ERROR, message)
        return False

    def set_device_memory(self, memory: int, size: int) -> None:
        """The memory of intermediate results."""
        assert size >= self._engine.device_memory_size_v2
        CUDART.memory.view(memory, size)
        self._needs_memory = False

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        """Choose a profile; all shapes have to be set again."""
        assert stream_handle == CUDART.STREAM
        self._changes()
        self.profile = profile_index
        self.shapes = {}
        return profile_index < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Set a shape, which must be in the profile."""
        self._changes()
        least, _, most = self._engine.get_tensor_profile_shape(name, self.profile)
        fits = len(shape) == len(least) and all(
            low <= one <= high for low, one, high in zip(least, shape, most, strict=True)
        )
        if not fits:
            return self._error(f"{name} {shape} is not within {least} to {most}")
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Set an address."""
        self._changes()
        assert name in self._engine.values
        assert memory % ALIGNMENT == 0, name
        self._addresses[name] = memory
        return True

    def _changes(self) -> None:
        assert not self.captures, "the context of a captured graph must not change"
        self._flushed = False

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Run with the shapes and addresses of this moment, when the stream comes to it."""
        assert stream_handle == CUDART.STREAM
        if self._needs_memory:
            return self._error("no memory for intermediate results")
        if set(self.shapes) != set(self._engine.inputs):
            return self._error("a shape of an input is missing")
        if set(self._addresses) != set(self._engine.values):
            return self._error("an address is missing")
        if CUDART.capturing is not None:
            assert self._flushed, "a capture needs a run with these shapes before"
            self.captures += 1
        self._flushed = True
        shapes, addresses = dict(self.shapes), dict(self._addresses)
        CUDART.enqueue(lambda: self._run(shapes, addresses))
        return True

    def _run(self, shapes: dict[str, Any], addresses: dict[str, int]) -> None:
        self.runs.append(shapes)
        feeds = {
            name: self._array(name, shape, addresses[name]).copy() for name, shape in shapes.items()
        }
        outputs = [value.name for value in self._engine.session.get_outputs()]
        made = self._engine.session.run(outputs, feeds)
        for name, value in zip(outputs, made, strict=True):
            self._array(name, value.shape, addresses[name])[...] = value

    def _array(self, name: str, shape: tuple[int, ...], address: int) -> Any:
        """The tensor as it lies in the device's memory."""
        dtype = np.dtype(DTYPES[self._engine.get_tensor_dtype(name).name])
        size = int(np.prod(shape)) * dtype.itemsize
        return CUDART.memory.view(address, size).view(dtype).reshape(shape)


CUDART = Cudart()


def install() -> None:
    """Give this library to whoever loads libcudart."""
    real = ctypes.CDLL

    def load(name: Any, *more: Any, **named: Any) -> Any:
        return CUDART if "libcudart" in str(name) else real(name, *more, **named)

    ctypes.CDLL = load  # type: ignore[misc, assignment]
