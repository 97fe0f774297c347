"""TensorRT's Python module, as far as the device has one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["tensorrt_module"]

MODULES = ("tensorrt", "tensorrt_rtx")
"""Modules with the same interface: TensorRT, and TensorRT for RTX of a desktop's GPU."""


def tensorrt_module() -> Any:
    """The module `tensorrt`, or else `tensorrt_rtx`; None: the device has neither."""
    for name in MODULES:
        try:
            return import_module(name)
        except ImportError:
            continue
    return None
