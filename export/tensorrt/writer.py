"""The writer of the format `tensorrt`: an ONNX graph, checked by NVIDIA's parser and builder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...errors import Refused
from ...models import FORMATS
from ...steps.context import StepContext, StepResult
from ..onnx.export import export_onnx
from ..onnx.low_bit_cache import cache_rounding
from ..onnx.writer import parity_rows, step_result
from ..options import ExportOptions
from . import rtx

__all__ = ["write"]


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write an ONNX artifact in fp16 around INT4 and INT8 layers, and let TensorRT check it.

    Raises:
        Refused: TensorRT cannot run the precision.
    """
    if options.precision == "int8-dynamic" and rtx.installed() is None:
        raise Refused(
            "TensorRT has no DynamicQuantizeLinear and no MatMulInteger, which int8-dynamic needs",
            "--precision fp16 or int4, or --format onnx for ONNX Runtime on a CPU",
        )
    rows = parity_rows(source, context)
    result = export_onnx(
        source,
        out,
        FORMATS[options.format].stored_precision(options.precision),
        rows,
        format=options.format,
        cut=options.cut,
        extra_check=rtx.check_build,
        round_cache=cache_rounding(options, source, context, rows),
    )
    return step_result(result, _note(result.checked))


def _note(checked: Mapping[str, float | str]) -> str:
    if not checked:
        return (
            "not checked by TensorRT, which is not installed "
            "(pip install 'edgewright[tensorrt]'); the engine is built on the device"
        )
    low = " and no expanded low-bit weights" if "tensorrt/expanded_bytes" in checked else ""
    size = float(checked["tensorrt/engine_bytes"]) / 1e6
    return (
        f"TensorRT for RTX {checked['tensorrt/version']} parses it and builds a prefill and a "
        f"decode profile for {checked['tensorrt/stand_in']} ({size:.1f} MB{low}); "
        "a check only, as the engine for the device is built on the device"
    )
