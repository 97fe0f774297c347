"""ONNX Runtime on the device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from ...models.export_format import Runtime
from ..preflight import Problem
from ..remote import Device
from .interface import RunSettings
from .line_session import LineSession, line_session

__all__ = ["OnnxRuntime"]


class OnnxRuntime:
    """ONNX Runtime, of the device's Python.

    Args:
        settings: how it is started.
    """

    name: Runtime = "onnxruntime"

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def problems(self, report: Mapping[str, Any]) -> list[Problem]:
        """See `DeviceRuntime.problems`."""
        packages = report["packages"]
        if packages["numpy"] and (packages["onnxruntime"] or packages["onnxruntime-gpu"]):
            return []
        return [
            Problem(
                f"the device's Python {report['python']} has no numpy or no onnxruntime",
                "python3 -m pip install numpy onnxruntime there, or name another interpreter with "
                "--python",
            )
        ]

    def started(self, device: Device, folder: str) -> AbstractAsyncContextManager[LineSession]:
        """See `DeviceRuntime.started`."""
        words = self._settings.run_words(folder, "answer", "--provider", self._settings.provider)
        return line_session(device, words)
