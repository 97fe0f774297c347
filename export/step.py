"""The export step: its place in recipes and plans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..models import FORMATS, require_expressible
from ..steps.state import State
from ..steps.step import FOUNDATION, Cost, PlanContext, Step
from .options import CACHE_TOKENS, ExportOptions

if TYPE_CHECKING:
    from ..steps.context import StepContext, StepResult

__all__ = ["ExportStep"]

OVERHEAD = 110 << 20
"""Bytes for the tokenizer, the graph and the allocator's reserve."""
RUNTIME_COPIES = {"fp32": 0.0, "fp16": 2.0, "bf16": 2.0, "int8": 0.5, "int8-dynamic": 0.5}
"""By precision, bytes that ONNX Runtime adds to a byte of weights: casts of 16 bits to 32."""
PACKED_COPIES = 0.4
"""The same of weights in 4 bits, which it packs again layer by layer; measured."""
PARITY_LENGTH = 136
"""Tokens of the longest row that is compared."""
PARITY_POSITIONS = 4 * 1024
"""Tokens that both models run through for the parity check, about."""


class ExportStep(Step[ExportOptions]):
    """Write an artifact that a runtime reads, and check that it computes the same."""

    kind = "export"
    Options = ExportOptions
    done = "exported"
    hub_relation = "quantized"

    def code(self, options: ExportOptions) -> tuple[str, ...]:
        """The exporters, and the package of the format's writer."""
        _, package, *_ = FORMATS[options.format].writer.split(".")
        return tuple(dict.fromkeys((*FOUNDATION, "export", package)))

    def check_in_recipe(self, options: ExportOptions) -> None:
        """Refuse formats that cannot be measured on this machine."""
        if not FORMATS[options.format].measured_by:
            raise ValueError(
                f"format: {options.format} cannot be measured here; "
                f"use the verb, `edgewright export --format {options.format}`"
            )

    def after(self, options: ExportOptions, source: State, plan: PlanContext) -> State:
        """The same weights in another format."""
        require_expressible(source.architecture, options.format, plan.name)
        return source.exported(
            options.format,
            options.precision.removesuffix("-a8"),
            options.kv_cache,
            pack_head=options.packs_head,
        )

    def cost(self, options: ExportOptions, source: State, result: State, plan: PlanContext) -> Cost:
        """The loaded artifact or the loaded model, whichever is larger, and the parity check."""
        operations = 2.0 * PARITY_POSITIONS * source.active_parameters
        rounding = 0
        if options.kv_cache == "int8":
            tokens = min(CACHE_TOKENS, plan.calibration.seq_len)
            rounding = source.architecture.state_bytes(tokens, element_bytes=4)
        return Cost(_memory(options, source, result) + rounding, operations)

    def run(
        self, options: ExportOptions, source: Path, out: Path, context: StepContext
    ) -> StepResult:
        """Write the artifact."""
        from .runner import export  # late: torch and transformers take seconds

        return export(options, source, out, context)


def _memory(options: ExportOptions, source: State, result: State) -> float:
    """Bytes of memory: the model whole for the reference, then the artifact in ONNX Runtime.

    The runtime keeps what it maps from the file, and copies what it packs or casts. The logits of a
    row are compared in parts, but the runtime makes them whole. A cache in 8 bits is compared with
    the float cache, in two sessions at a time. A GGUF is not run.
    """
    from ..checkpoints.loading import fits_in_memory
    from ..checkpoints.tensors import stored_dtype  # late: torch takes seconds

    model = source.architecture
    stored = stored_dtype(model.config).itemsize
    table = model.vocab_size * model.hidden_size
    logits = 4 * PARITY_LENGTH * model.vocab_size
    needs = [2.0 * (stored + 4) * table]  # an embedding is read, cast and written
    if not source.precision.startswith("int") and fits_in_memory(source.parameters):
        needs.append(4.0 * source.parameters + 2 * logits)
    if FORMATS[options.format].measured_by == "onnxruntime":
        copied = RUNTIME_COPIES.get(result.precision, PACKED_COPIES) * result.weight_bytes
        head = 0 if options.packs_head else 4 * table
        rows = 1 if options.logits == "last" else 6
        sessions = 2 if options.kv_cache == "int8" else 1  # they map one file of weights
        needs.append(result.weight_bytes + sessions * (copied + head) + rows * logits)
    return OVERHEAD + max(needs)
