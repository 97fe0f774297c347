"""Generate tokens with a TensorRT engine, its KV cache on the device.

Only token ids, the mask and the logits of one position cross between host and device. See
`engine_cache.py` for where keys and values lie. It was not run on a GPU: the tests run it on
doubles of TensorRT's and CUDA's interfaces, over ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...export.tensorrt.engine import PHASES
from .cuda import Cuda
from .engine_cache import Layout, Slots, rooms
from .engine_session import Context, EngineSession, Shape, Tensor

__all__ = ["EngineDecoder"]

PREFILL, DECODE = PHASES
PAST, PRESENT = "past_key_values.", "present."
INTEGERS = ("input_ids", "attention_mask", "position_ids")
INT64_BYTES, LOGIT_BYTES = 8, 4


class EngineDecoder:
    """A causal language model in TensorRT, for one sequence at a time. See `token_loop.Decoder`.

    An engine for a batch runs the sequence in every row.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        cuda: the device.
        file: the engine.
        gapless: whether a layer sees only a window of positions, so that the cache has no gaps.

    Attributes:
        vocabulary: number of logits of a position.
        provider: the module's name.
        details: the version of TensorRT; whether steps are replayed from CUDA graphs; and the bytes
            of the engine's file, of intermediate results, of the cache with its copy, and of
            everything that the device lent since before the engine was loaded.

    Raises:
        EdgewrightError: the engine cannot be loaded here, or the device has too little memory.
        UsageError: it is not an engine of a bundle.
    """

    def __init__(self, trt: Any, cuda: Cuda, file: Path, *, gapless: bool) -> None:
        free = cuda.free_bytes
        self.provider = trt.__name__
        self._cuda = cuda
        self._session = EngineSession(trt, cuda, file)
        tensors = self._session.tensors
        self._pasts = [name for name in tensors if name.startswith(PAST)]
        logits = tensors.get("logits")
        if not self._pasts or logits is None or logits.dtype != "FLOAT":
            raise UsageError(
                f"{file}: no engine of a decoder with a KV cache and float32 logits",
                "build it from an artifact of edgewright export, with run.sh build",
            )
        self._read_shapes(tensors, logits)
        self._rooms = () if gapless else rooms(self._longest, self._prefill_past)
        self._contexts: dict[tuple[str, int], Context] = {}
        self._slots = self._empty()
        self._allocate()
        self._warm_up()
        memory = {
            "engine_bytes": file.stat().st_size,
            "activation_bytes": self._session.activation_bytes,
            "cache_bytes": 2 * self._cache_bytes,
            "device_bytes": max(free - cuda.free_bytes, 0),
        }
        self.details = {"version": trt.__version__, "graphs": self._graphs(), "memory": memory}

    def _warm_up(self) -> None:
        """Two tokens, which load kernels and show whether a step can be captured."""
        cache = self.open_cache(1, 2)
        for length in (1, 2):
            self.step(np.zeros((1, 1), np.int64), np.ones((1, length), np.int64), cache)

    def _graphs(self) -> str:
        """What replays the steps of an answer."""
        if self._session.replays_itself:
            return "captured by TensorRT for RTX"
        if not self._rooms:
            return "none: a layer has a window"
        failures = [context.not_captured for context in self._contexts.values()]
        failed = next(filter(None, failures), "")
        return f"none: {failed}" if failed else "one for each room"

    def _read_shapes(self, tensors: dict[str, Tensor], logits: Tensor) -> None:
        """What the engine's tensors and profiles say."""
        past = tensors[self._pasts[0]]
        self._batch, heads, _, head_dim = past.longest[DECODE]
        self._past_shape = (self._batch, heads, head_dim)
        self._layout = Layout(len(self._pasts), self._batch * heads, head_dim * past.item_bytes)
        self._longest = past.longest[DECODE][2]
        self._prefill_past = past.longest[PREFILL][2]
        self._prefill_tokens = tensors["input_ids"].longest[PREFILL][1]
        _, positions, self.vocabulary = logits.shape
        self._last_logits = positions == 1

    def _allocate(self) -> None:
        """Memory of all tensors."""
        tokens = self._prefill_tokens
        sizes = {
            "input_ids": self._batch * tokens * INT64_BYTES,
            "position_ids": self._batch * tokens * INT64_BYTES,
            "attention_mask": self._batch * (self._longest + 1) * INT64_BYTES,
            "logits": self._batch
            * (1 if self._last_logits else tokens)
            * self.vocabulary
            * LOGIT_BYTES,
        }
        self._fixed = {name: self._cuda.allocate(size) for name, size in sizes.items()}
        self._cache_bytes = self._layout.size(self._longest + 1)
        self._past = self._cuda.allocate(self._cache_bytes)
        self._present = self._cuda.allocate(self._cache_bytes)

    def _empty(self) -> Slots:
        return Slots(self._rooms, self._longest)

    def open_cache(self, batch: int, positions: int = 0) -> Slots:
        """See `Decoder.open_cache`. There is one cache: a new one takes the place of the last.

        Raises:
            UsageError: the engine's context is shorter than `positions`.
        """
        assert batch == 1, "an engine generates one sequence at a time"
        self._check_room(positions)
        # What the mask hides must be finite too: 0 times infinity is no number. Rows that only
        # align the next tensor are copied with the others, and may become hidden slots later.
        for address in (self._past, self._present):
            self._cuda.clear(address, self._cache_bytes)
        self._slots = self._empty()
        return self._slots

    def _check_room(self, positions: int) -> None:
        if positions > self._longest + 1:
            raise UsageError(
                f"{positions} tokens of prompt and answer, and the engine is built for "
                f"{self._longest + 1}",
                "ask for fewer new tokens, or bundle a longer --context",
            )

    def step(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64], cache: Slots
    ) -> NDArray[np.float32]:
        """See `Decoder.step`; logits of the last position, float32 [1, 1, vocabulary].

        A long prompt takes several passes. Behind the longest past of a prefill pass, the rest of
        it is decoded token by token.
        """
        assert cache is self._slots, "another cache was opened since"
        new = input_ids.shape[1]
        # With the answer's last token, which is not fed.
        self._check_room(cache.length + new + 1)
        done = 0
        count = 0
        while done < new:
            count = self._pass_tokens(new - done)
            end = done + count
            self._pass(input_ids[:, done:end], attention_mask[:, : cache.length + count])
            done = end
        return self._logits(count)

    def _pass_tokens(self, left: int) -> int:
        """Tokens of the next pass."""
        fits = self._slots.room <= self._prefill_past
        return min(left, self._prefill_tokens) if fits else 1

    def _pass(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        """Run the engine on some tokens, and keep what it gives."""
        count, slots = ids.shape[1], self._slots
        seen = np.zeros((1, slots.room + count), np.int64)
        seen[:, 1 : slots.used] = mask[:, : slots.length]
        seen[:, slots.room :] = mask[:, slots.length :]
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -count:]
        for name, value in zip(INTEGERS, (ids, seen, positions), strict=True):
            rows = np.repeat(value, self._batch, 0)
            self._cuda.upload(self._fixed[name], np.ascontiguousarray(rows, np.int64))
        self._run(count)
        self._keep(count)

    def _run(self, count: int) -> None:
        slots = self._slots
        phase = DECODE if count == 1 and slots.length else PREFILL
        replayed = phase == DECODE and bool(self._rooms)
        # A captured graph has a context of its own, whose shapes and addresses never change.
        key = (phase, slots.room if replayed and not self._session.replays_itself else 0)
        if key not in self._contexts:
            self._contexts[key] = self._session.context(phase, replayed=replayed)
        self._contexts[key].set(self._shapes(count), self._addresses(count))
        self._contexts[key].run()

    def _shapes(self, count: int) -> dict[str, Shape]:
        batch, heads, head_dim = self._past_shape
        room = self._slots.room
        return {
            "input_ids": (batch, count),
            "attention_mask": (batch, room + count),
            "position_ids": (batch, count),
            **dict.fromkeys(self._pasts, (batch, heads, room, head_dim)),
        }

    def _addresses(self, count: int) -> dict[str, int]:
        room = self._slots.room
        found = dict(self._fixed)
        for number, name in enumerate(self._pasts):
            found[name] = self._past + self._layout.offset(number, room)
            present = name.replace(PAST, PRESENT)
            found[present] = self._present + self._layout.offset(number, room + count)
        return found

    def _keep(self, count: int) -> None:
        """Make what the engine gave the past of the next step."""
        slots, vector = self._slots, self._layout.vector
        room, used = slots.room, slots.used
        if not slots.add(count):
            return
        if not self._rooms:
            self._past, self._present = self._present, self._past
            return
        rows = self._layout.tensors * self._layout.rows
        pitches = (slots.room * vector, (room + count) * vector)
        if slots.room != room:  # the rows are longer now
            self._cuda.copy_rows(
                self._past, pitches[0], self._present, pitches[1], used * vector, rows
            )
        self._cuda.copy_rows(
            self._past + used * vector,
            pitches[0],
            self._present + room * vector,
            pitches[1],
            count * vector,
            rows,
        )

    def _logits(self, count: int) -> NDArray[np.float32]:
        """The logits of the last of the tokens of the last pass, of the first row."""
        before = 0 if self._last_logits else (count - 1) * self.vocabulary * LOGIT_BYTES
        logits = self._cuda.download(self._fixed["logits"] + before, self.vocabulary)
        return logits.reshape(1, 1, -1)
