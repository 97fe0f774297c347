"""A double of libcudart with one device, whose memory is that of this process.

What is asked of the stream is done when it is waited for, not before.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from trtexec_double import COMPUTE

ALIGNMENT = 256
FUNCTIONS = {
    "cudaMalloc": "malloc",
    "cudaMemsetAsync": "memset_async",
    "cudaMemcpyAsync": "memcpy_async",
    "cudaMemcpy2DAsync": "memcpy2d_async",
    "cudaMemGetInfo": "mem_get_info",
    "cudaDeviceGetAttribute": "device_get_attribute",
    "cudaStreamCreateWithFlags": "stream_create_with_flags",
    "cudaStreamSynchronize": "stream_synchronize",
    "cudaStreamBeginCapture": "stream_begin_capture",
    "cudaStreamEndCapture": "stream_end_capture",
    "cudaGraphInstantiateWithFlags": "graph_instantiate_with_flags",
    "cudaGraphLaunch": "graph_launch",
    "cudaGetErrorString": "get_error_string",
}
"""Functions of the library, and the methods that stand for them."""


class Memory:
    """The device's memory. What was not written is no number."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, int, Any]] = []

    @property
    def size(self) -> int:
        """Bytes that are in use."""
        return sum(size for _, size, _ in self._blocks)

    def allocate(self, size: int) -> int:
        """The address of a new block."""
        block = np.full(size + ALIGNMENT, 0xFF, np.uint8)
        address = -(-block.ctypes.data // ALIGNMENT) * ALIGNMENT
        self._blocks.append((address, size, block))
        return address

    def view(self, address: int, size: int) -> Any:
        """Bytes, which must lie inside of one block."""
        for begin, length, _ in self._blocks:
            if begin <= address and address + size <= begin + length:
                return at(address, size)
        raise AssertionError(f"{size} bytes at {address} are not in one block")


def at(address: int, size: int) -> Any:
    """Bytes at an address of this process."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


class Function:
    """A function of the library, which checks its arguments as ctypes does."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work
        self.argtypes: tuple[Any, ...] | None = None
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        if self.argtypes is not None:
            assert len(arguments) == len(self.argtypes)
            for kind, argument in zip(self.argtypes, arguments, strict=True):
                kind.from_param(argument)
        return self._work(*(getattr(one, "_obj", one) for one in arguments)) or 0


class Cudart:
    """The CUDA runtime with one device and one stream."""

    STREAM = 4711
    TOTAL = 1 << 33

    def __init__(self) -> None:
        self.memory = Memory()
        self.capturing: list[Callable[[], None]] | None = None
        self.launches = 0
        self.copied_rows = 0
        self._queue: list[Callable[[], None]] = []
        self._graphs: list[list[Callable[[], None]]] = []
        self.failing = ""
        for name, method in FUNCTIONS.items():
            setattr(self, name, Function(self._named(name, getattr(self, method))))

    def _named(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: 2 if self.failing == name else work(*arguments)

    def enqueue(self, work: Callable[[], None]) -> None:
        """Do it in its turn, or make it a part of the graph that is captured."""
        (self._queue if self.capturing is None else self.capturing).append(work)

    def malloc(self, out: Any, size: int) -> None:
        """Memory."""
        out.value = self.memory.allocate(size)

    def memset_async(self, address: int, value: int, size: int, stream: int) -> None:
        """One value everywhere."""
        self.enqueue(lambda: self.memory.view(address, size).fill(value))

    def memcpy_async(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        """Between host and device. The host's side is read at once, and written in its turn."""
        assert self.capturing is None
        if kind == 1:
            data = at(source, size).copy()
            self.enqueue(lambda: self.memory.view(to, size).__setitem__(..., data))
        else:
            assert kind == 2
            self.enqueue(lambda: at(to, size).__setitem__(..., self.memory.view(source, size)))

    def memcpy2d_async(
        self, to: int, to_pitch: int, source: int, pitch: int, width: int, rows: int, *rest: int
    ) -> None:
        """Rows, from one pitch to another."""
        assert rest == (3, self.STREAM)
        assert width <= min(pitch, to_pitch)
        self.copied_rows += 1

        def copy() -> None:
            for row in range(rows):
                data = self.memory.view(source + row * pitch, width)
                self.memory.view(to + row * to_pitch, width)[...] = data

        self.enqueue(copy)

    def mem_get_info(self, free: Any, total: Any) -> None:
        """Free and all memory."""
        free.value, total.value = self.TOTAL - self.memory.size, self.TOTAL

    def device_get_attribute(self, out: Any, attribute: int, device: int) -> None:
        """The compute capability."""
        out.value = COMPUTE[{75: 0, 76: 1}[attribute]]

    def stream_create_with_flags(self, out: Any, flags: int) -> None:
        """The stream."""
        out.value = self.STREAM

    def stream_synchronize(self, stream: int) -> None:
        """Do everything that waits."""
        while self._queue:
            self._queue.pop(0)()

    def stream_begin_capture(self, stream: int, mode: int) -> None:
        """What comes now is not done."""
        assert self.capturing is None
        self.capturing = []

    def stream_end_capture(self, stream: int, out: Any) -> None:
        """The graph."""
        assert self.capturing
        self._graphs.append(self.capturing)
        self.capturing = None
        out.value = len(self._graphs)

    def graph_instantiate_with_flags(self, out: Any, graph: int, flags: int) -> None:
        """A graph that can be run."""
        out.value = graph

    def graph_launch(self, graph: int, stream: int) -> None:
        """Run a graph."""
        self.launches += 1
        self._queue += self._graphs[graph - 1]

    def get_error_string(self, code: int) -> bytes:
        """An error in words."""
        return b"out of memory"
