"""TensorRT on the device: the engine that was built there, run by the bundle's own program."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ...models.export_format import Runtime
from ..preflight import Problem
from ..remote import Device
from .interface import RunSettings
from .line_session import LineSession, line_session

__all__ = ["TensorRt"]


class TensorRt:
    """TensorRT of JetPack, or TensorRT for RTX of a desktop, in the device's Python.

    Args:
        settings: how it is started.
    """

    name: Runtime = "tensorrt"

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def problems(self, report: Mapping[str, Any]) -> list[Problem]:
        """See `DeviceRuntime.problems`."""
        packages = report["packages"]
        found: list[Problem] = []
        if not packages["numpy"]:
            found.append(
                Problem(
                    f"the device's Python {report['python']} has no numpy",
                    "python3 -m pip install numpy there, or name another interpreter with --python",
                )
            )
        if not (packages["tensorrt"] or packages["tensorrt_rtx"]):
            found.append(
                Problem(
                    f"the device's Python {report['python']} has no module tensorrt",
                    "sudo apt install python3-libnvinfer (JetPack has it), and give --python the "
                    "system's interpreter or one of a virtual environment with "
                    "--system-site-packages; or use --runtime onnxruntime",
                )
            )
        return found

    def started(self, device: Device, folder: str) -> AbstractAsyncContextManager[LineSession]:
        """See `DeviceRuntime.started`."""
        words = self._settings.run_words(folder, "answer", "--runtime", "tensorrt")
        return line_session(device, words)
