"""What an artifact loses and gains when its keys and values are cached in 8 bits.

    python -m edgewright.perf.int8_cache FLOAT INT8 --text wiki.txt

FLOAT and INT8 are exports of one checkpoint (`--format ort`), without and with `--kv-cache int8`.
The output: the KL from FLOAT over texts that go through the cache 32 tokens at a time; the bytes of
the tensors that hold a full cache, and the memory that they add to a process of their own; and the
time of one more token, measured in turns. On a machine with other work, the seconds of the
processor with `--threads 1` say more than those of the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..checkpoints.memory import return_freed_memory
from ..checkpoints.tokenizer import load_tokenizer
from ..export.onnx.parity import log_softmax
from ..export.onnx.runtime import Cache, OnnxDecoder
from .verb_memory import anonymous_and_all

CHUNK = 32


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exact", type=Path)
    parser.add_argument("rounded", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=2048, help="of a text and of a cache")
    parser.add_argument("--texts", type=int, default=2, help="0: no KL")
    parser.add_argument("--rounds", type=int, default=40, help="tokens that are timed")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    ids = load_tokenizer(args.exact)(args.text.read_text())["input_ids"]
    if len(ids) < args.texts * args.tokens:
        parser.error(f"--text has only {len(ids)} tokens")
    rows = [ids[n * args.tokens :][: args.tokens] for n in range(args.texts)]
    decoders = [OnnxDecoder(path, args.threads) for path in (args.exact, args.rounded)]
    for number, row in enumerate(rows):
        losses = np.concatenate(list(_losses(decoders, row)))
        print(
            f"text {number}: KL {losses.mean():.5f}, last quarter "
            f"{losses[-len(losses) // 4 :].mean():.5f}, {len(losses)} positions",
            flush=True,
        )
    sizes = [_in_process(path, args.tokens) for path in (args.exact, args.rounded)]
    for path, (held, grown) in zip((args.exact, args.rounded), sizes, strict=True):
        print(
            f"{path}: tensors of {held:,} bytes hold {args.tokens} tokens; the process grew by "
            f"{grown:,}"
        )
    print(f"bytes of the process: ratio {sizes[1][1] / sizes[0][1]:.3f}", flush=True)
    for clock, times in _times(decoders, args.tokens, args.rounds).items():
        exact, rounded = (statistics.median(one) * 1e3 for one in times)
        ratios = sorted(b / a for a, b in zip(*times, strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        print(
            f"a token after {args.tokens}, {clock}: {exact:.1f} ms and {rounded:.1f} ms, ratio "
            f"{statistics.median(ratios):.3f} (80 % of pairs: {low:.3f} to {high:.3f})"
        )


def _fill(decoder: OnnxDecoder, row: list[int], cache: Cache) -> Iterator[np.ndarray]:
    for begin in range(0, len(row), CHUNK):
        part = np.array([row[begin : begin + CHUNK]])
        yield decoder.step(part, np.ones((1, begin + part.shape[1]), np.int64), cache)


def _losses(decoders: list[OnnxDecoder], row: list[int]) -> Iterator[np.ndarray]:
    """KL of each position in nats."""
    passes = [_fill(one, row, one.open_cache(1, len(row))) for one in decoders]
    for logits in zip(*passes, strict=True):
        p, q = (log_softmax(one[0]) for one in logits)
        yield (np.exp(p) * (p - q)).sum(-1)


def _in_process(path: Path, tokens: int) -> tuple[int, int]:
    """Bytes of the tensors of a cache, and bytes that they add to a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (path, tokens))


def _growth(path: Path, tokens: int) -> tuple[int, int]:
    decoder = OnnxDecoder(path, 1)
    for _ in range(3):  # what the first passes allocate for themselves
        list(_fill(decoder, [1] * CHUNK, decoder.open_cache(1, CHUNK)))
    return_freed_memory()  # or the cache would take it, and the process grow by less
    before = anonymous_and_all(multiprocessing.current_process().pid or 0)[0]
    cache = _full_cache(decoder, tokens, 0)
    after = anonymous_and_all(multiprocessing.current_process().pid or 0)[0]
    return sum(value.numpy().nbytes for value in cache.past), after - before


def _full_cache(decoder: OnnxDecoder, tokens: int, more: int) -> Cache:
    """A cache that holds some number in every place, with room for more tokens."""
    cache = decoder.open_cache(1, tokens + more)
    for value in cache.past:
        value.numpy()[:] = 1  # so that its pages are there
    cache.length = tokens
    return cache


def _times(
    decoders: list[OnnxDecoder], tokens: int, rounds: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Seconds of a token after a full cache, in turns, by the clock."""
    caches = [_full_cache(one, tokens, rounds) for one in decoders]
    clocks = {"of the clock": time.perf_counter, "of the processor": time.process_time}
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in clocks}
    for turn in range(rounds):
        mask = np.ones((1, tokens + turn + 1), np.int64)
        for place in (turn % 2, 1 - turn % 2):
            begins = {name: clock() for name, clock in clocks.items()}
            decoders[place].step(np.array([[turn + 1]]), mask, caches[place])
            for name, clock in clocks.items():
                times[name][place].append(clock() - begins[name])
    return times


if __name__ == "__main__":
    main()
