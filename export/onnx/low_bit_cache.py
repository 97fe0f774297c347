"""Change a finished artifact so that it caches keys and values in 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...models import Architecture
from ...steps.context import StepContext
from ..options import ExportOptions
from .cache_ranges import ChannelRange, channel_ranges, rounding_loss
from .fused_cache import round_fused_cache
from .genai import GENAI_CONFIG
from .graph import MODEL
from .runtime import OnnxDecoder
from .standard_cache import round_standard_cache

__all__ = ["KV_CACHE_KL", "cache_rounding", "round_cache"]

KV_CACHE_KL = "parity/kv_cache_kl"


def cache_rounding(
    options: ExportOptions, source: Path, context: StepContext, held_out: list[list[int]]
) -> Callable[[Path, Architecture], dict[str, float]] | None:
    """What rounds the cache of an artifact by calibration, and measures the loss on other text.

    Args:
        options: say whether there is to be such a cache; if not, the result is None.
        source: the checkpoint of the artifact.
        context: its calibration text.
        held_out: token ids of other texts.
    """
    if options.kv_cache == "float":
        return None

    def finish(folder: Path, model: Architecture) -> dict[str, float]:
        rows = [row[0].tolist() for row in context.calibration.rows(source, context.seed)]
        fixed = {
            f"past_key_values.{layer.index}.key"
            for layer in model.layers
            if layer.attention.softcap
        }
        exact = OnnxDecoder(folder)
        round_cache(folder, channel_ranges(exact, rows, fixed))
        (folder / GENAI_CONFIG).unlink(missing_ok=True)
        return {KV_CACHE_KL: rounding_loss(exact, OnnxDecoder(folder), held_out)}

    return finish


def round_cache(folder: Path, ranges: Mapping[str, ChannelRange]) -> None:
    """Change the graph of an artifact to a cache in 8 bits.

    Args:
        folder: directory of the artifact; `model.onnx` is replaced.
        ranges: of `channel_ranges`.
    """
    file = folder / MODEL
    model = onnx.load(file, load_external_data=False)
    graph = model.graph
    kind = next(value.type.tensor_type.elem_type for value in graph.input if value.name in ranges)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    fused = any(node.op_type == "GroupQueryAttention" for node in graph.node)
    (round_fused_cache if fused else round_standard_cache)(graph, ranges, dtype)
    present = {name.replace("past_key_values", "present") for name in ranges}
    for value in (*graph.input, *graph.output):
        if value.name in ranges.keys() | present:
            value.type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, file)
    if not fused:
        onnx.checker.check_model(str(file), full_check=True)
