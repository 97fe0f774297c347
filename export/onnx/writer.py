"""The writer of the formats `onnx` and `ort`, and what all writers of ONNX graphs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...checkpoints.config import read_architecture
from ...models.packed_tables import rare_rows
from ...steps.context import StepContext, StepResult
from ..options import ExportOptions
from .export import ExportResult, export_onnx
from .genai import GENAI_CONFIG
from .low_bit_cache import channel_ranges, round_cache, rounding_loss
from .runtime import OnnxDecoder

__all__ = ["parity_rows", "step_result", "write"]

KV_CACHE_KL = "parity/kv_cache_kl"
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
        finish=_int8_cache(source, context, rows) if options.kv_cache == "int8" else None,
    )
    notes = [_packed_note(read_architecture(source).vocab_size)] if result.packed_tables else []
    if KV_CACHE_KL in result.parity:
        notes.append(f"keys and values in 8 bits: KL {result.parity[KV_CACHE_KL]:.1e}")
    return step_result(result, *notes)


def _int8_cache(
    source: Path, context: StepContext, held_out: list[list[int]]
) -> Callable[[Path], dict[str, float]]:
    """What rounds the cache of an artifact by calibration, and measures the loss on other text."""

    def finish(folder: Path) -> dict[str, float]:
        rows = [row[0].tolist() for row in context.calibration.rows(source, context.seed)]
        exact = OnnxDecoder(folder)
        round_cache(folder, channel_ranges(exact, rows))
        (folder / GENAI_CONFIG).unlink(missing_ok=True)
        return {KV_CACHE_KL: rounding_loss(exact, OnnxDecoder(folder), held_out)}

    return finish


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
    details = {"checked": result.checked} if result.checked else {}
    return StepResult([note, *notes], {"parity": parity, **details})
