"""What generates tokens on the device: the artifact in ONNX Runtime, or its TensorRT engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import EdgewrightError
from ...export.tensorrt.engine import read_spec
from .engine import built_engine
from .manifest import MANIFEST
from .modules import tensorrt_module

__all__ = ["RUNTIMES", "open_decoder"]

RUNTIMES = ("onnxruntime", "tensorrt")
NO_MODULE = "the Python module tensorrt is not on this device"
NO_MODULE_HINT = (
    "sudo apt install python3-libnvinfer (JetPack has it), and use the system's python3, or a "
    "virtual environment made with --system-site-packages"
)


def open_decoder(bundle: Path, runtime: str, threads: int, provider: str) -> Any:
    """Load the model; see `token_loop.Decoder`.

    Args:
        bundle: directory of the bundle.
        runtime: one of `RUNTIMES`.
        threads: of the processor, in ONNX Runtime.
        provider: of ONNX Runtime: `auto`, or a name in `on_provider.PROVIDERS`.

    Raises:
        EdgewrightError: the runtime is not on this device, or does not load the model.
    """
    # Late: a device has one of the runtimes, and not always both.
    if runtime == "tensorrt":
        from .cuda import Cuda
        from .engine_decoder import EngineDecoder

        trt = tensorrt_module()
        if trt is None:
            raise EdgewrightError(NO_MODULE, NO_MODULE_HINT)
        file = built_engine(bundle)
        gapless = read_spec(bundle / MANIFEST).windowed
        return EngineDecoder(trt, Cuda(), file, gapless=gapless)
    from ...export.onnx.on_provider import ProviderDecoder, providers_for

    return ProviderDecoder(bundle / "model", threads, providers_for(provider))
