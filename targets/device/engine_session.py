"""A TensorRT engine: its tensors by name, its profiles, and contexts that run it.

The calls are those that TensorRT 10.3 (JetPack 6.1 to 6.2), TensorRT 11 and TensorRT for RTX have
in common. One engine file has both phases of `export/tensorrt/engine.py` as its profiles.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import EdgewrightError, UsageError
from ...export.tensorrt.engine import PHASES, logger_of
from .cuda import Cuda

__all__ = ["Context", "EngineSession", "Shape", "Tensor"]

ITEM_BYTES = {"FLOAT": 4, "HALF": 2, "BF16": 2, "INT8": 1, "INT32": 4, "INT64": 8}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or an output of an engine.

    Attributes:
        shape: sizes of its dimensions; -1: it depends on the step.
        dtype: TensorRT's name of its type, such as `HALF`.
        is_input: whether it is an input.
        longest: the largest shape in each phase, of an input.
    """

    shape: Shape
    dtype: str
    is_input: bool
    longest: Mapping[str, Shape]

    @property
    def item_bytes(self) -> int:
        """Bytes of an element."""
        return ITEM_BYTES[self.dtype]


class EngineSession:
    """A loaded engine.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        cuda: the device.
        file: the engine.

    Attributes:
        tensors: inputs and outputs by name.
        activation_bytes: memory that a run needs for its intermediate results.
        replays_itself: whether the runtime captures graphs by itself.

    Raises:
        EdgewrightError: TensorRT cannot load the engine here.
        UsageError: it is not an engine of a bundle.
    """

    def __init__(self, trt: Any, cuda: Cuda, file: Path) -> None:
        self._trt = trt
        self._cuda = cuda
        self._logger = logger_of(trt)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._loaded(file)
        if self._engine.num_optimization_profiles != len(PHASES):
            raise UsageError(
                f"{file}: has {self._engine.num_optimization_profiles} profiles, and an engine "
                f"of a bundle has {len(PHASES)}: {' and '.join(PHASES)}",
                "build it with run.sh build",
            )
        self.tensors = dict(map(self._tensor, range(self._engine.num_io_tensors)))
        self.activation_bytes = int(self._engine.device_memory_size_v2)
        self._configuration = self._own_graphs()
        self.replays_itself = self._configuration is not None
        # Contexts run one after the other, so they can share this memory.
        self._shared = 0 if self.replays_itself else cuda.allocate(max(self.activation_bytes, 1))

    def _loaded(self, file: Path) -> Any:
        """The engine. Its file is mapped: a copy would need its size once more."""
        try:
            with (
                file.open("rb") as handle,
                mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content,
            ):
                engine = self._runtime.deserialize_cuda_engine(content)
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: no engine: {error}", "build it with run.sh build") from error
        if engine is None:
            reasons = "; ".join(self._logger.errors[-3:]) or "no reason given"
            raise EdgewrightError(
                f"{file}: TensorRT {self._trt.__version__} cannot load it on a GPU of compute "
                f"capability {self._cuda.compute_capability}: {reasons}",
                "an engine runs only on the TensorRT and the kind of GPU that it was built for: "
                "remove engine/ in the bundle, and build it there with run.sh build",
            )
        return engine

    def _tensor(self, index: int) -> tuple[str, Tensor]:
        engine = self._engine
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
        longest = {
            phase: tuple(engine.get_tensor_profile_shape(name, profile)[2])
            for profile, phase in enumerate(PHASES)
            if is_input
        }
        dtype = engine.get_tensor_dtype(name).name
        return name, Tensor(tuple(engine.get_tensor_shape(name)), dtype, is_input, longest)

    def _own_graphs(self) -> Any:
        """A configuration with which TensorRT for RTX captures graphs itself; None elsewhere.

        It compiles kernels for new shapes while it runs, so only it knows what can be captured.
        """
        strategies = getattr(self._trt, "CudaGraphStrategy", None)
        if strategies is None:
            return None
        configuration = self._engine.create_runtime_config()
        configuration.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE
        return configuration

    def context(self, phase: str, *, replayed: bool) -> Context:
        """A new context of a phase.

        Args:
            phase: one of `PHASES`.
            replayed: shapes and addresses will stay as they are first set, so that runs can be
                replayed from a CUDA graph.
        """
        if self.replays_itself:
            made = self._engine.create_execution_context(self._configuration)
        else:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            made = self._engine.create_execution_context(strategy)
        if made is None:
            raise EdgewrightError(
                f"TensorRT cannot make a context: {'; '.join(self._logger.errors[-3:])}",
                "close other programs that use the GPU, or bundle a shorter --context",
            )
        if not self.replays_itself:
            made.set_device_memory(self._shared, self.activation_bytes)
        context = Context(made, self._cuda, replayed and not self.replays_itself)
        context.checked(
            made.set_optimization_profile_async(PHASES.index(phase), self._cuda.stream),
            f"the profile {phase}",
        )
        return context


class Context:
    """Runs an engine with its own shapes and addresses.

    A graph is captured after the first run, which also does what TensorRT puts off after a change
    of shapes. A context whose graph was captured must not be changed: NVIDIA leaves open what the
    graph would do then.

    Args:
        context: TensorRT's.
        cuda: the device.
        replayed: see `EngineSession.context`.

    Attributes:
        not_captured: why no graph could be captured, as it happens with some operators; empty: it
            could, or was not tried. Without a graph every run is started by itself.
    """

    def __init__(self, context: Any, cuda: Cuda, replayed: bool) -> None:
        self._context = context
        self._cuda = cuda
        self._replayed = replayed
        self._graph = 0
        self.not_captured = ""
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}

    def checked(self, done: bool, what: str) -> None:
        """Raise if TensorRT refused something."""
        if not done:
            raise EdgewrightError(
                f"TensorRT refuses {what}",
                "please report it with the lines above; meanwhile use --runtime onnxruntime",
            )

    def set(self, shapes: Mapping[str, Shape], addresses: Mapping[str, int]) -> None:
        """Set the shapes of inputs and the addresses of all tensors, as far as they differ."""
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._unchanged(name)
                self.checked(self._context.set_input_shape(name, shape), f"{name} {shape}")
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                self._unchanged(name)
                self.checked(self._context.set_tensor_address(name, address), f"memory of {name}")
        self._shapes |= shapes
        self._addresses |= addresses

    def _unchanged(self, name: str) -> None:
        assert not self._graph, f"{name} changes under a captured graph"

    def run(self) -> None:
        """Run a step; the outputs are there when the stream has come so far."""
        if self._graph:
            self._cuda.launch(self._graph)
            return
        self._execute()
        if self._replayed and not self.not_captured:
            try:
                self._graph = self._cuda.captured(self._execute)
            except EdgewrightError as error:
                self.not_captured = str(error)

    def _execute(self) -> None:
        self.checked(self._context.execute_async_v3(self._cuda.stream), "to run")
