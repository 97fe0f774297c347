"""The few functions of the CUDA runtime that an engine needs, called in libcudart with ctypes.

JetPack brings libcudart and the Python module tensorrt, but no Python module of CUDA. Everything
runs in one stream, in the order in which it was asked for.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EdgewrightError

__all__ = ["Cuda", "cuda_library"]

NAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
FOLDERS = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
TO_DEVICE, TO_HOST, IN_DEVICE = 1, 2, 3
"""`cudaMemcpyKind`."""
NON_BLOCKING = 1
THREAD_LOCAL = 1
"""`cudaStreamCaptureMode`: what other threads do is no part of a capture."""
MAJOR, MINOR = 75, 76
"""`cudaDeviceAttr`: the two parts of the compute capability."""
POINTER, SIZE, NUMBER = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
OUT = ctypes.POINTER(POINTER)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (OUT, SIZE),
    "cudaMemsetAsync": (POINTER, NUMBER, SIZE, POINTER),
    "cudaMemcpyAsync": (POINTER, POINTER, SIZE, NUMBER, POINTER),
    "cudaMemcpy2DAsync": (POINTER, SIZE, POINTER, SIZE, SIZE, SIZE, NUMBER, POINTER),
    "cudaMemGetInfo": (ctypes.POINTER(SIZE), ctypes.POINTER(SIZE)),
    "cudaDeviceGetAttribute": (ctypes.POINTER(NUMBER), NUMBER, NUMBER),
    "cudaStreamCreateWithFlags": (OUT, ctypes.c_uint),
    "cudaStreamSynchronize": (POINTER,),
    "cudaStreamBeginCapture": (POINTER, NUMBER),
    "cudaStreamEndCapture": (POINTER, OUT),
    "cudaGraphInstantiateWithFlags": (OUT, POINTER, ctypes.c_ulonglong),
    "cudaGraphLaunch": (POINTER, POINTER),
}
"""Arguments as CUDA 12 and 13 declare them; each function returns an error code."""


def cuda_library() -> Any:
    """The shared library of the CUDA runtime.

    Raises:
        EdgewrightError: it is not on this machine.
    """
    for name in _candidates():
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EdgewrightError(
        "libcudart is not on this device, and no engine runs without it",
        "sudo apt install nvidia-jetpack, or add its folder to LD_LIBRARY_PATH",
    )


def _candidates() -> Iterator[str]:
    """Names for the loader, then files: of the CUDA toolkit, and of the wheels of pip."""
    yield from NAMES
    wheels = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    for folder in (*map(Path, FOLDERS), *sorted(wheels.glob("*/lib"))):
        yield from (str(folder / name) for name in NAMES)


class Cuda:
    """Memory, copies and graphs of one device.

    Args:
        library: the CUDA runtime; None: see `cuda_library`.

    Attributes:
        stream: handle of the stream that everything runs in.

    Raises:
        EdgewrightError: there is no CUDA, or no GPU.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library or cuda_library()
        for name, types in SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes = types
            function.restype = NUMBER
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self.stream = self._made("cudaStreamCreateWithFlags", NON_BLOCKING)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code)
            reason = said.decode(errors="replace") if said else "no reason given"
            raise EdgewrightError(
                f"{name} failed: CUDA error: {reason} ({code})",
                "look at what else uses the GPU, and at `dmesg`; a shorter --context needs less "
                "memory",
            )

    def _made(self, name: str, *arguments: Any) -> int:
        """What a function writes to its first argument: a handle or an address."""
        made = POINTER()
        self._call(name, ctypes.byref(made), *arguments)
        return made.value or 0

    @property
    def free_bytes(self) -> int:
        """Memory of the device that is free."""
        free, total = SIZE(), SIZE()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    @property
    def compute_capability(self) -> str:
        """The device's compute capability, such as `8.7`."""
        found = NUMBER()
        parts: list[str] = []
        for attribute in (MAJOR, MINOR):
            self._call("cudaDeviceGetAttribute", ctypes.byref(found), attribute, 0)
            parts.append(str(found.value))
        return ".".join(parts)

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the device, aligned to 256 bytes; they are kept."""
        return self._made("cudaMalloc", size)

    def clear(self, address: int, size: int) -> None:
        """Write zeros."""
        self._call("cudaMemsetAsync", address, 0, size, self.stream)

    def upload(self, address: int, array: NDArray[Any]) -> None:
        """Copy an array, which must be contiguous, to the device."""
        source = array.ctypes.data
        self._call("cudaMemcpyAsync", address, source, array.nbytes, TO_DEVICE, self.stream)

    def download(self, address: int, count: int) -> NDArray[np.float32]:
        """Wait for everything before, and copy `count` float32 numbers from the device."""
        array = np.empty(count, np.float32)
        to = array.ctypes.data
        self._call("cudaMemcpyAsync", to, address, array.nbytes, TO_HOST, self.stream)
        self._call("cudaStreamSynchronize", self.stream)
        return array

    def copy_rows(
        self, to: int, to_pitch: int, source: int, source_pitch: int, width: int, rows: int
    ) -> None:
        """Copy the first `width` bytes of each row, from rows of one pitch to rows of another."""
        self._call(
            "cudaMemcpy2DAsync",
            to,
            to_pitch,
            source,
            source_pitch,
            width,
            rows,
            IN_DEVICE,
            self.stream,
        )

    def captured(self, work: Callable[[], None]) -> int:
        """A graph of what `work` asks for, which is not run."""
        self._call("cudaStreamBeginCapture", self.stream, THREAD_LOCAL)
        try:
            work()
        finally:
            graph = POINTER()
            self._call("cudaStreamEndCapture", self.stream, ctypes.byref(graph))
        return self._made("cudaGraphInstantiateWithFlags", graph.value, 0)

    def launch(self, graph: int) -> None:
        """Run a graph."""
        self._call("cudaGraphLaunch", graph, self.stream)
