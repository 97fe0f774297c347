"""The export step: write the artifact, and compare its logits with those of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.files import read_config
from ..errors import Refused
from ..models import require_dense
from ..steps.context import StepContext, StepResult
from .options import ExportOptions

if TYPE_CHECKING:
    from .onnx.export import ExportResult

__all__ = ["export"]

PARITY_ROWS = 8
PARITY_TOKENS = 128


def export(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write `source` as an artifact to `out`, and check that both compute the same.

    This writes every format but `edge-llm`, which needs the rules of a device; `targets` adds it.

    Raises:
        Refused: a mixture of experts, or a precision that the checkpoint does not have.
        ParityFailed: the artifact's logits differ from those of the checkpoint. Nothing is kept.
    """
    require_dense(read_config(source), "exported", str(source))
    if options.format == "gguf":
        return _export_gguf(source, out, options)
    rows = [
        row[0, :PARITY_TOKENS].tolist()
        for row in context.calibration.rows(source, context.seed + 1)[:PARITY_ROWS]
    ]
    result = GRAPHS[options.format](source, out, options, rows)
    notes = [_parity_note(result.parity)]
    if options.format == "tensorrt":
        notes.append(_tensorrt_note(result.checked))
    details = {"checked": result.checked} if result.checked else {}
    return StepResult(notes, {"parity": result.parity, **details})


def _parity_note(parity: Mapping[str, float]) -> str:
    return (
        f"parity with torch over {parity['parity/positions']:.0f} positions: "
        f"top-1 {parity['parity/top1_prefill']:.4f} prefill, "
        f"{parity['parity/top1_decode']:.4f} over {parity['parity/decode_steps']:.0f} cached "
        f"decode steps, KL {parity['parity/kl']:.1e}"
    )


def _export_onnx(
    source: Path, out: Path, options: ExportOptions, rows: list[list[int]]
) -> ExportResult:
    from .onnx.export import export_onnx  # late: onnx and ONNX Runtime

    return export_onnx(source, out, options.precision, rows, format=options.format, cut=options.cut)


def _export_triton(
    source: Path, out: Path, options: ExportOptions, rows: list[list[int]]
) -> ExportResult:
    from .triton.repository import export_triton

    return export_triton(source, out, options.precision, rows)


def _export_tensorrt(
    source: Path, out: Path, options: ExportOptions, rows: list[list[int]]
) -> ExportResult:
    """The graph, in fp16 around INT4 and INT8, checked by NVIDIA's parser and builder."""
    from .onnx.export import export_onnx
    from .tensorrt.rtx import check_build, installed

    if options.precision == "int8-dynamic" and installed() is None:
        raise Refused(
            "TensorRT has no DynamicQuantizeLinear and no MatMulInteger, which int8-dynamic needs",
            "--precision fp16 or int4, or --format onnx for ONNX Runtime on a CPU",
        )
    precision = (
        f"{options.precision}-fp16" if options.precision in ("int4", "int8") else options.precision
    )
    return export_onnx(
        source, out, precision, rows, format="tensorrt", cut=options.cut, further=check_build
    )


GRAPHS = {
    "onnx": _export_onnx,
    "ort": _export_onnx,
    "tensorrt": _export_tensorrt,
    "triton": _export_triton,
}


def _export_gguf(source: Path, out: Path, options: ExportOptions) -> StepResult:
    from .gguf.writer import export_gguf

    checked = export_gguf(source, out, options.precision)
    kinds = ", ".join(f"{count} {kind}" for kind, count in checked["tensors"].items())
    note = (
        f"model.gguf: {kinds}; read back, weights differ by at most "
        f"{checked['largest_difference']:.1e} of the largest value of a tensor"
    )
    return StepResult([note], {"checked": checked})


def _tensorrt_note(checked: Mapping[str, float | str]) -> str:
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
