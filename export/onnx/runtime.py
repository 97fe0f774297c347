"""Run an artifact in ONNX Runtime on the CPU, with a KV cache.

This module imports neither torch nor transformers. So a process that measures the decoder does not
measure two frameworks. Bundles contain a copy, which runs on devices without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import (
    onnxruntime_pybind11_state as errors,  # pyright: ignore[reportAttributeAccessIssue] - compiled
)

from ...errors import UsageError
from .sampling import GREEDY, Sampling, next_tokens
from .token_loop import stream

__all__ = [
    "ACCURACY_LEVEL",
    "FP32_ACTIVATIONS",
    "Cache",
    "OnnxDecoder",
    "Past",
    "past_of",
    "session_options",
]

MODEL, FOR_CPU = "model.onnx", "model.cpu.onnx"
"""The graph of an artifact, and the one that replaces it on a CPU (of a bf16 artifact)."""
# ONNX Runtime's default, 4, rounds activations to int8 before an INT4 product. On Gemma 3 270M that
# costs 0.012 nats of KL and saves 9 % of a token's time. Level 1 agrees with torch to 1e-10 nats.
FP32_ACTIVATIONS = 1
ACCURACY_LEVEL = "session.qdq_matmulnbits_accuracy_level"
# ONNX Runtime's exceptions have no base class of their own.
LOAD_ERRORS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)
CACHES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}

IN_PLACE = "edgewright.cache_in_place"
"""Metadata of a model file: past and present may share memory."""
KEPT = "edgewright.cache_kept"
"""Metadata of a model file: the positions that a windowed cache keeps, as `SINKS,WINDOW`."""
GROWTH = 256
"""A cache written in place grows in steps of this many positions."""

Past = list[ort.OrtValue]
"""A KV cache: key and value of every layer in turn, each [batch, kv_heads, length, head_dim]."""


@dataclass
class Cache:
    """A KV cache that `OnnxDecoder.step` extends.

    Attributes:
        past: keys and values. A cache written in place has spare room after `length` positions.
        length: positions that are filled.
        binding: connects `past` to inputs and outputs of a session, if it is written in place.
    """

    past: Past
    length: int = 0
    binding: Any = None


def session_options(threads: int | None, accuracy_level: int) -> ort.SessionOptions:
    """Session options of a decoder; see `OnnxDecoder`."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    options.add_session_config_entry(ACCURACY_LEVEL, str(accuracy_level))
    return options


class OnnxDecoder:
    """A causal language model in ONNX Runtime.

    Args:
        path: the artifact directory, or its model file.
        threads: number of threads of a product; None: ONNX Runtime chooses.
        accuracy_level: how INT4 products compute: 1: in float32; 4: with int8 activations.
        options: session options to use instead of `threads` and `accuracy_level`.

    Attributes:
        session: the ONNX Runtime session.
        past_names: names of the cache inputs: key and value of every layer in turn.
        in_place: whether past and present of a cache may share memory.
        vocabulary: number of logits of a position.
        last_logits: whether only the last position gets logits.
        windowed: whether a cache drops old positions.

    Raises:
        UsageError: there is no model, it cannot be loaded, or it is not a decoder.
    """

    providers: Sequence[str] = ("CPUExecutionProvider",)

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        accuracy_level: int = FP32_ACTIVATIONS,
        options: ort.SessionOptions | None = None,
    ) -> None:
        self._file = _graph_of(Path(path))
        if not self._file.is_file():
            raise UsageError(
                f"{path}: no {MODEL}",
                "give a directory that `edgewright export --format onnx` wrote",
            )
        options = options or session_options(threads, accuracy_level)
        try:
            self.session = ort.InferenceSession(
                str(self._file), options, providers=list(self.providers)
            )
        except LOAD_ERRORS as error:
            reason = str(error).splitlines()[0]
            raise UsageError(
                f"{self._file}: ONNX Runtime cannot load it: {reason}", "export the model again"
            ) from error
        caches = [
            value
            for value in self.session.get_inputs()
            if value.name.startswith("past_key_values.")
        ]
        if not caches:
            raise UsageError(
                f"{self._file}: has no past_key_values inputs",
                "export the model with edgewright export",
            )
        self.past_names = [value.name for value in caches]
        self._outputs = [
            "logits",
            *(name.replace("past_key_values", "present") for name in self.past_names),
        ]
        self._kv_heads, self._head_dim = int(caches[0].shape[1]), int(caches[0].shape[3])
        self._kv_type = CACHES[caches[0].type]
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.in_place = IN_PLACE in metadata
        _, positions, self.vocabulary = self.session.get_outputs()[0].shape
        self.last_logits = positions == 1
        self._kept = tuple(map(int, metadata[KEPT].split(","))) if KEPT in metadata else None
        self.windowed = self._kept is not None

    @property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one position of a row."""
        width = self._kv_heads * self._head_dim * np.dtype(self._kv_type).itemsize
        return width * len(self.past_names)

    def zero_states(self, batch: int, positions: int) -> list[NDArray[Any]]:
        """Zeros for all keys and values, each [batch, kv_heads, positions, head_dim]."""
        shape = (batch, self._kv_heads, positions, self._head_dim)
        return [np.zeros(shape, self._kv_type) for _ in self.past_names]

    def empty_past(self, batch: int) -> Past:
        """An empty cache for `batch` rows."""
        return past_of(self.zero_states(batch, 0))

    def forward(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        position_ids: NDArray[np.int64] | None = None,
        past: Past | None = None,
    ) -> tuple[NDArray[np.float32], Past]:
        """One step of the model.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, past + sequence], 0 for padding (on the left).
            position_ids: int64 [batch, sequence]; None: counted from the mask.
            past: the cache of the previous call; a windowed cache is shorter than the mask.

        Returns:
            Logits, float32 [batch, sequence, vocabulary], and the cache for the next call.
        """
        past = past or self.empty_past(len(input_ids))
        feeds = self._integers(input_ids, attention_mask, position_ids, past[0].shape()[2])
        feeds |= zip(self.past_names, past, strict=True)
        # With OrtValues the cache stays in ONNX Runtime's memory and is not copied through numpy.
        logits, *present = self.session.run_with_ort_values(self._outputs, feeds)
        return logits.numpy(), present

    def _integers(
        self,
        input_ids: NDArray[np.int64],
        mask: NDArray[np.int64],
        position_ids: NDArray[np.int64] | None,
        length: int,
    ) -> dict[str, ort.OrtValue]:
        """The integer inputs for a cache of `length` positions."""
        new = input_ids.shape[1]
        if position_ids is None:
            position_ids = np.maximum(mask.cumsum(1) - 1, 0)[:, -new:]
        # Positions that a windowed cache has dropped are dropped from the mask too.
        if self._kept and mask.shape[1] > length + new:
            sinks = min(self._kept[0], length)
            mask = np.concatenate(
                [mask[:, :sinks], mask[:, mask.shape[1] - (length - sinks + new) :]], 1
            )
        arrays = {"input_ids": input_ids, "attention_mask": mask, "position_ids": position_ids}
        return {
            name: ort.OrtValue.ortvalue_from_numpy(_int64(array)) for name, array in arrays.items()
        }

    def open_cache(self, batch: int, positions: int = 0) -> Cache:
        """An empty cache for `batch` rows.

        If it is written in place, it has room for `positions` and grows when it is full.
        """
        if not self.in_place:
            return Cache(self.empty_past(batch))
        room = -(-max(positions, 1) // GROWTH) * GROWTH
        return Cache(past_of(self.zero_states(batch, room)))

    def step(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], cache: Cache
    ) -> NDArray[np.float32]:
        """Extend a cache by some tokens.

        Args:
            input_ids: int64 [batch, sequence].
            attention_mask: int64 [batch, cached + sequence], 0 for padding (on the left).
            cache: a cache of `open_cache`, which is changed.

        Returns:
            Logits, float32 [batch, sequence, vocabulary], or [batch, 1, vocabulary] (last only).
        """
        new = input_ids.shape[1]
        if not self.in_place:
            logits, cache.past = self.forward(input_ids, attention_mask, past=cache.past)
            cache.length += new
            return logits
        if cache.length + new > cache.past[0].shape()[2]:
            more = -(-(cache.length + new) // GROWTH) * GROWTH - cache.past[0].shape()[2]
            cache.past = past_of(
                np.pad(value.numpy(), ((0, 0), (0, 0), (0, more), (0, 0))) for value in cache.past
            )
            cache.binding = None
        if cache.binding is None:
            cache.binding = self.session.io_binding()
            for name, value in zip(self.past_names, cache.past, strict=True):
                cache.binding.bind_ortvalue_input(name, value)
                cache.binding.bind_ortvalue_output(
                    name.replace("past_key_values", "present"), value
                )
        for name, value in self._integers(input_ids, attention_mask, None, cache.length).items():
            cache.binding.bind_ortvalue_input(name, value)
        cache.binding.bind_output("logits")
        self.session.run_with_iobinding(cache.binding)
        cache.length += new
        return cache.binding.get_outputs()[-1].numpy()

    def generate(
        self,
        input_ids: NDArray[np.int64],
        attention_mask: NDArray[np.int64],
        max_new_tokens: int,
        eos_ids: Sequence[int],
        sampling: Sampling = GREEDY,
    ) -> NDArray[np.int64]:
        """Continuations of a batch of prompts that are padded on the left.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 [batch, length].
            max_new_tokens: the most tokens to add.
            eos_ids: tokens that end a row; empty: every row gets `max_new_tokens`.
            sampling: how tokens are chosen. A row does not depend on the others.

        Returns:
            The new tokens, int64 [batch, n]. A row that ended is filled with the first `eos_ids`.
        """
        batch = len(input_ids)
        tokens = np.full((batch, max_new_tokens), [*eos_ids, 0][0], np.int64)
        cache = self.open_cache(batch, attention_mask.shape[1] + max_new_tokens)
        running = np.ones(batch, bool)
        randoms = [sampling.random(row) for row in range(batch)]
        step = _int64(input_ids)
        for n in range(max_new_tokens):
            logits = self.step(step, attention_mask, cache)[:, -1]
            new = next_tokens(logits, [sampling] * batch, randoms)
            tokens[running, n] = new[running]
            running &= ~np.isin(new, eos_ids)
            if not running.any():
                return tokens[:, : n + 1]
            step = new[:, None]
            attention_mask = np.pad(attention_mask, ((0, 0), (0, 1)), constant_values=1)
        return tokens

    def stream(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        eos_ids: Sequence[int] = (),
        sampling: Sampling = GREEDY,
    ) -> Iterator[int]:
        """See `token_loop.stream`: the same tokens as `generate` on a batch of one."""
        return stream(self, ids, max_new_tokens, eos_ids, sampling)


def _graph_of(path: Path) -> Path:
    """The file to run: in an artifact directory `model.cpu.onnx` if there is one."""
    if not path.is_dir():
        return path
    return path / FOR_CPU if (path / FOR_CPU).is_file() else path / MODEL


def past_of(arrays: Iterable[NDArray[Any]]) -> Past:
    """A KV cache from the arrays of its keys and values."""
    return [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)) for array in arrays]


def _int64(array: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(array, np.int64)
