"""The export step: options, and the rows that the artifact's parity is checked on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..checkpoint import read_config
from ..models import require_dense
from ..steps import StepContext, StepResult

__all__ = ["ExportOptions", "export"]

PARITY_ROWS, PARITY_TOKENS = 8, 128


class ExportOptions(BaseModel):
    """What kind of artifact to make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["onnx"] = Field(default="onnx", description="onnx: portable operators only, with a KV cache")
    precision: Literal["fp32", "fp16", "int4", "int8-dynamic"] = Field(
        default="fp32", description="int4 takes a GPTQ checkpoint bit for bit; int8-dynamic is for ONNX Runtime on CPUs"
    )


def export(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write `source` as an artifact to `out` and prove that it computes the same.

    Raises:
        Refused: the checkpoint cannot be exported in this precision, or at all: a mixture of experts.
        ParityFailed: the artifact's logits are not those of the checkpoint (nothing is kept then).
    """
    from .runner import export_onnx  # late: onnx and ONNX Runtime

    require_dense(read_config(source), "exported", str(source))
    rows = [row[0, :PARITY_TOKENS].tolist() for row in context.calibration.rows(source, context.seed + 1)[:PARITY_ROWS]]
    result = export_onnx(source, out, options.precision, rows)
    parity = result.parity
    note = (
        f"parity with torch over {parity['parity/positions']:.0f} positions: top-1 {parity['parity/top1_prefill']:.4f} prefill, "
        f"{parity['parity/top1_decode']:.4f} over {parity['parity/decode_steps']:.0f} cached decode steps, KL {parity['parity/kl']:.1e}"
    )
    return StepResult([note], {"parity": parity})
