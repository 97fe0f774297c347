"""The export step: options, and the rows that the artifact's parity is checked on."""

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

PARITY_ROWS, PARITY_TOKENS = 8, 128


def export(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write `source` as an artifact to `out` and prove that it computes the same.

    All formats but `edge-llm`, which is no graph of ours and a matter of a device's rules: see `targets.hand_over`.

    Raises:
        Refused: the checkpoint cannot be exported in this precision, or at all: a mixture of experts.
        ParityFailed: the artifact's logits are not those of the checkpoint (nothing is kept then).
    """
    require_dense(read_config(source), "exported", str(source))
    if options.format == "gguf":
        return _export_gguf(source, out, options)
    rows = [
        row[0, :PARITY_TOKENS].tolist()
        for row in context.calibration.rows(source, context.seed + 1)[:PARITY_ROWS]
    ]
    result = GRAPHS[options.format](source, out, options, rows)
    parity = result.parity
    note = (
        f"parity with torch over {parity['parity/positions']:.0f} positions: top-1 {parity['parity/top1_prefill']:.4f} prefill, "
        f"{parity['parity/top1_decode']:.4f} over {parity['parity/decode_steps']:.0f} cached decode steps, KL {parity['parity/kl']:.1e}"
    )
    notes = [note, *([_told(result.checked)] if options.format == "tensorrt" else [])]
    return StepResult(
        notes, {"parity": parity} | ({"checked": result.checked} if result.checked else {})
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
    """The graph in fp16 around INT4 and INT8, and NVIDIA's parser and builder asked about it."""
    from .onnx.export import export_onnx
    from .tensorrt.rtx import check_build, installed

    if options.precision == "int8-dynamic" and installed() is None:
        message = "TensorRT has no DynamicQuantizeLinear and no MatMulInteger, which int8-dynamic is made of"
        raise Refused(
            message, "--precision fp16 or int4, or --format onnx for ONNX Runtime on a CPU"
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

    told = export_gguf(source, out, options.precision)
    kinds = ", ".join(f"{count} {kind}" for kind, count in told["tensors"].items())
    note = f"model.gguf: {kinds}; read back, weights differ by {told['largest_difference']:.1e} of a tensor's largest at most"
    return StepResult([note], {"checked": told})


def _told(checked: Mapping[str, float | str]) -> str:
    if not checked:
        return "not checked by TensorRT, which is not installed (pip install 'edgewright[tensorrt]'); the engine is built on the device"
    low = " and no expanded low-bit weights" if "tensorrt/expanded_bytes" in checked else ""
    size, stand_in = float(checked["tensorrt/engine_bytes"]) / 1e6, checked["tensorrt/stand_in"]
    return (
        f"TensorRT for RTX {checked['tensorrt/version']} parses it and builds a prefill and a decode profile for {stand_in} "
        f"({size:.1f} MB{low}); a check only, as the engine for the device is built on the device"
    )
