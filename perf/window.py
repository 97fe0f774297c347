r"""Measure what a windowed KV cache saves in memory and costs in perplexity at late positions.

    python -m edgewright.perf.window GEMMA text:wikitext2_valid.txt --context 2048 --rows 8 \
        --windows 1024 512
    python -m edgewright.perf.window builtin:tiny-reasoner builtin:reasoning --context 1024 \
        --rows 16 --windows 256 128 64

The checkpoint is exported once for each window (fp32, compared with torch like every export). Each
row is read through ONNX Runtime in chunks, with the cache that the artifact returns. Perplexity is
that of the second half of each row, whose positions have more tokens before them than a window
keeps. `of full` is the ratio to full attention on the same rows, with the standard error of its
logarithm over rows. Bytes are those of the cache after the last token.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checkpoints.config import model_path, resolve
from ..checkpoints.tokenizer import load_tokenizer
from ..data.sources import Source, training_rows
from ..export.onnx.cut import Cut
from ..export.onnx.export import export_onnx
from ..export.onnx.runtime import OnnxDecoder

CHUNK = 32
"""Tokens per pass. A longer pass would need a wider cache while it runs."""


def row_loss(decoder: OnnxDecoder, ids: list[int], labels: list[int]) -> tuple[float, int, int]:
    """Score the second half of a row.

    Returns:
        The sum of negative log-likelihoods, their number, and the bytes of the cache at the end.
    """
    cache = decoder.open_cache(1, len(ids))
    total = 0.0
    count = 0
    for begin in range(0, len(ids), CHUNK):
        end = min(begin + CHUNK, len(ids))
        mask = np.ones((1, end), np.int64)
        logits = decoder.step(np.array([ids[begin:end]]), mask, cache)[0].astype(np.float64)
        for position in range(max(begin, len(ids) // 2), min(end, len(ids) - 1)):
            if labels[position + 1] >= 0:
                total -= _log_likelihood(logits[position - begin], labels[position + 1])
                count += 1
    return total, count, sum(value.numpy().nbytes for value in cache.past)


def _log_likelihood(logits: NDArray[np.float64], token: int) -> float:
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def main() -> None:
    """Export and score with each window, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--windows", type=int, nargs="+", default=[512, 256, 128])
    parser.add_argument("--sinks", type=int, nargs="+", default=[4, 0])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    path = resolve(model_path(args.model))
    rows = list(
        training_rows(load_tokenizer(path), Source.parse(args.source), args.context, 1, args.rows)
    )
    cuts = [
        Cut(),
        *(Cut(window=window, sinks=sinks) for window in args.windows for sinks in args.sinks),
    ]
    print(f"{len(rows)} rows of {args.context} tokens, positions from {args.context // 2} on")
    print(
        "| window | sinks | perplexity | of full | cache bytes | of full |\n"
        "|---|---|---|---|---|---|"
    )
    full: NDArray[np.float64] | None = None
    full_bytes = 1
    for cut in cuts:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            export_onnx(path, out, "fp32", [row.ids[:64] for row in rows[:2]], cut=cut)
            decoder = OnnxDecoder(out, args.threads)
            found = [row_loss(decoder, row.ids, row.labels) for row in rows]
            del decoder
        losses = np.array([total / count for total, count, _ in found])
        cache_bytes = found[0][2]
        if full is None:
            full = losses
            full_bytes = cache_bytes
        gap = losses - full
        error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.nan
        name = f"| {cut.window} | {cut.sinks} |" if cut.window else "| full | - |"
        print(
            f"{name} {math.exp(losses.mean()):.4g} | {math.exp(gap.mean()):.3f} +- {error:.3f} "
            f"| {cache_bytes:,} | {cache_bytes / full_bytes:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
