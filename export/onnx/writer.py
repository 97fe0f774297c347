"""The writer of the formats `onnx` and `ort`, and what all writers of ONNX graphs share."""

from __future__ import annotations

from pathlib import Path

from ...checkpoints.config import read_architecture
from ...models.packed_tables import rare_rows
from ...steps.context import StepContext, StepResult
from ..options import ExportOptions
from .export import ExportResult, export_onnx
from .low_bit_cache import KV_CACHE_KL, cache_rounding

__all__ = ["parity_rows", "step_result", "write"]

PARITY_ROWS = 8
PARITY_TOKENS = 128
PARITY_SEED = 1
"""Added to the seed, so that generated text is not the text that the weights were rounded for."""


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write an ONNX artifact; format `ort` has ONNX Runtime's own operators."""
    rows = parity_rows(source, context)
    result = export_onnx(
        source,
        out,
        options.precision,
        rows,
        format=options.format,
        cut=options.cut,
        packs_head=options.packs_head,
        round_cache=cache_rounding(options, source, context, rows),
    )
    notes = [_packed_note(read_architecture(source).vocab_size)] if result.packed_tables else []
    return step_result(result, *notes)


def _packed_note(vocab_size: int) -> str:
    rare = rare_rows(vocab_size)
    more = f", rows of rare tokens ({rare.start} to {rare.stop - 1}) to 4" if rare else ""
    return f"embedding and head rounded to 8 bits{more}; --float-head keeps them in floating point"


def parity_rows(source: Path, context: StepContext) -> list[list[int]]:
    """Token ids for the comparison of logits with the checkpoint, from the calibration source."""
    rows = context.calibration.rows(source, context.seed + PARITY_SEED)[:PARITY_ROWS]
    return [row[0, :PARITY_TOKENS].tolist() for row in rows]


def step_result(result: ExportResult, *notes: str) -> StepResult:
    """The result of the export step, with a note about parity and further notes."""
    parity = result.parity
    note = (
        f"parity with {result.reference} over {parity['parity/positions']:.0f} positions: "
        f"top-1 {parity['parity/top1_prefill']:.4f} prefill, "
        f"{parity['parity/top1_decode']:.4f} over {parity['parity/decode_steps']:.0f} cached "
        f"decode steps, KL {parity['parity/kl']:.1e}"
    )
    if KV_CACHE_KL in parity:
        notes = (
            *notes,
            f"keys and values in 8 bits: KL {parity[KV_CACHE_KL]:.1e}; not for onnxruntime-genai",
        )
    details = {"checked": result.checked} if result.checked else {}
    return StepResult([note, *notes], {"parity": parity, **details})
