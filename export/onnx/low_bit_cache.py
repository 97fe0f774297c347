"""Store keys and values in 8 bits: `GroupQueryAttention` rounds them and reads them rounded.

Each channel of a key/value head has a center and a symmetric scale, from the least and the largest
value in calibration text. Keys are rounded after the rotary embedding. Some models have channels
that are far from zero at every position, and a center takes that away: softmax does not change
when one vector is subtracted from all keys (SageAttention, arXiv:2410.02367, section 4.2), and
attention gives a vector back that was subtracted from all values. So neither center costs accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from ...console import progress
from ...errors import ParityFailed, UsageError
from ...generation.memory import chunk_tokens
from .fused_linears import DOMAIN
from .graph import MODEL
from .parity import log_softmax
from .runtime import Cache, OnnxDecoder

__all__ = ["CALIBRATION_TOKENS", "ChannelRange", "channel_ranges", "round_cache", "rounding_loss"]

BITS = 8
TOP = 127
"""The largest integer."""
HEADROOM = 1.25
"""Room above the largest value of calibration. Without it, clipped values cost six times the KL
(perf/RESULTS.md)."""
SMALLEST = 1e-6
"""Least largest value of a channel, so that a scale is never zero."""
BIASES = 12
"""Inputs of `GroupQueryAttention` before the scales."""
CALIBRATION_TOKENS = 4096
"""The most tokens that ranges are measured on."""
PROMPT = 16
"""Tokens at a time when the loss is measured: later ones read the rounded cache of earlier ones."""
MOST_KL = 1e-2
"""Largest loss of an artifact that is kept, in nats."""


@dataclass(frozen=True)
class ChannelRange:
    """What the keys or the values of a layer span in calibration text.

    Attributes:
        low, high: the least and the largest value of each channel, float32 [kv_heads * head_dim].
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def center(self) -> NDArray[np.float32]:
        """The middle of each channel."""
        return (self.low + self.high) * np.float32(0.5)

    def scale(self, center: NDArray[np.float32]) -> NDArray[np.float32]:
        """The step of each channel after a center was subtracted, float32."""
        largest = np.maximum(self.high - center, center - self.low) * HEADROOM
        return (np.maximum(largest, SMALLEST) / TOP).astype(np.float32)


def channel_ranges(decoder: OnnxDecoder, rows: Sequence[Sequence[int]]) -> dict[str, ChannelRange]:
    """Measure what keys and values span.

    Args:
        decoder: a decoder with a cache in floating point.
        rows: token ids; each is a text of its own. At most `CALIBRATION_TOKENS` are read.

    Returns:
        By name of the cache input.

    Raises:
        UsageError: there is no row.
    """
    if not rows:
        raise UsageError("a cache in 8 bits needs calibration text", "give --calibration SOURCE")
    widths = [one.shape[1] * one.shape[3] for one in decoder.zero_states(1, 0)]
    lows = [np.full(width, np.inf, np.float32) for width in widths]
    highs = [np.full(width, -np.inf, np.float32) for width in widths]
    read = 0
    with progress("measuring keys and values", CALIBRATION_TOKENS) as bar:
        for row in rows:
            used = row[: CALIBRATION_TOKENS - read]
            if not used:
                break
            for low, high, states in zip(lows, highs, _states_of(decoder, used), strict=True):
                np.minimum(low, states.min((0, 2)).reshape(-1), out=low)
                np.maximum(high, states.max((0, 2)).reshape(-1), out=high)
            read += len(used)
            bar.advance(len(used))
    return {
        name: ChannelRange(low, high)
        for name, low, high in zip(decoder.past_names, lows, highs, strict=True)
    }


def _states_of(decoder: OnnxDecoder, row: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    """Keys and values of a text, each [1, kv_heads, positions, head_dim]."""
    cache = decoder.open_cache(1, len(row))
    for _ in _chunks(
        decoder, row, cache, chunk_tokens(decoder.vocabulary, not decoder.last_logits)
    ):
        pass
    for value in cache.past:
        yield value.numpy()[:, :, : cache.length].astype(np.float32)


def _chunks(
    decoder: OnnxDecoder, row: Sequence[int], cache: Cache, chunk: int
) -> Iterator[NDArray[np.float32]]:
    """Logits of a text, some tokens at a time, [1, tokens or 1, vocabulary]."""
    for begin in range(0, len(row), chunk):
        ids = np.array([row[begin : begin + chunk]], np.int64)
        yield decoder.step(ids, np.ones((1, begin + ids.shape[1]), np.int64), cache)


def round_cache(folder: Path, ranges: Mapping[str, ChannelRange]) -> None:
    """Change the graph of an artifact in ONNX Runtime's operators to a cache in 8 bits.

    Args:
        folder: directory of the artifact; `model.onnx` is replaced.
        ranges: of `channel_ranges`.
    """
    file = folder / MODEL
    model = onnx.load(file, load_external_data=False)
    graph = model.graph
    nodes: list[NodeProto] = []
    kind = next(value.type.tensor_type.elem_type for value in graph.input if value.name in ranges)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    for node in graph.node:
        rounds = node.op_type == "GroupQueryAttention" and node.domain == DOMAIN
        nodes += _rounded(graph, node, ranges, dtype) if rounds else [node]
    del graph.node[:]
    graph.node.extend(nodes)
    present = {name.replace("past_key_values", "present") for name in ranges}
    for value in (*graph.input, *graph.output):
        if value.name in ranges.keys() | present:
            value.type.tensor_type.elem_type = TensorProto.INT8
    onnx.save(model, file)


def _rounded(
    graph: GraphProto, node: NodeProto, ranges: Mapping[str, ChannelRange], dtype: np.dtype
) -> list[NodeProto]:
    """An attention that stores its keys and values in 8 bits, and the nodes around it.

    Scores that go through a softcap change when keys are moved, so such keys keep their place.
    """
    settings = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    key, value = node.input[3:5]
    capped = bool(settings.get("softcap"))
    centers = {
        key: np.zeros_like(ranges[key].low) if capped else ranges[key].center(),
        value: ranges[value].center(),
    }
    node.input.extend([""] * (BIASES - len(node.input)))
    nodes: list[NodeProto] = []
    for place, name in ((1, key), (2, value)):
        scale = ranges[name].scale(centers[name])
        node.input.append(_constant(graph, f"{name}.scale", scale))
        center = _constant(graph, f"{name}.center", centers[name].astype(dtype))
        centered = f"{name}.centered"
        nodes.append(helper.make_node("Sub", [node.input[place], center], [centered], centered))
        node.input[place] = centered
    rounding = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL"}
    for name, setting in {**rounding, "kv_cache_bit_width": BITS}.items():
        node.attribute.append(helper.make_attribute(name, setting))
    kv_heads = settings["kv_num_heads"]
    groups = settings["num_heads"] // kv_heads
    heads = centers[value].reshape(kv_heads, -1).repeat(groups, 0).reshape(-1)
    output = node.output[0]
    node.output[0] = f"{value}.mixed"
    back = _constant(graph, f"{value}.center.heads", heads.astype(dtype))
    nodes += [node, helper.make_node("Add", [node.output[0], back], [output], f"{value}.back")]
    return nodes


def _constant(graph: GraphProto, name: str, values: NDArray[np.floating]) -> str:
    graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def rounding_loss(exact: OnnxDecoder, rounded: OnnxDecoder, rows: Sequence[Sequence[int]]) -> float:
    """Mean KL(exact || rounded) over the positions of texts, in nats.

    Args:
        exact: the decoder with a cache in floating point.
        rounded: the same with a cache in 8 bits.
        rows: token ids; each is a text of its own.

    Raises:
        ParityFailed: it is above `MOST_KL`.
    """
    total = 0.0
    positions = 0
    for row in rows:
        caches = exact.open_cache(1, len(row)), rounded.open_cache(1, len(row))
        pairs = zip(
            _chunks(exact, row, caches[0], PROMPT),
            _chunks(rounded, row, caches[1], PROMPT),
            strict=True,
        )
        for p, q in ((log_softmax(one), log_softmax(other)) for one, other in pairs):
            total += float(np.nan_to_num((np.exp(p) * (p - q)).sum(-1), nan=np.inf).sum())
            positions += p.shape[1]
    loss = max(0.0, total / positions)
    if loss > MOST_KL:
        raise ParityFailed(
            f"keys and values in 8 bits change the model: KL {loss:.2e} (at most {MOST_KL:g})",
            "leave --kv-cache out, or give --calibration a text that is more like the prompts",
        )
    return loss
