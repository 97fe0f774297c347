"""Check the perplexity of `edgewright bench` against a short, independent computation.

    python -m edgewright.perf.perplexity MODEL text:FILE --windows 4 --seq-len 512

The independent computation uses only transformers. It tokenizes the whole text, cuts it into
windows that begin with the tokenizer's prefix, and sums the losses in float64, window by window.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..benchmarks.measure import measure
from ..benchmarks.options import EvaluateOptions
from ..checkpoints.config import model_path, resolve
from ..data.sources import Source


def independent(model: Path, text: str, windows: int, seq_len: int) -> float:
    """Perplexity without any code of edgewright."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prefix = tokenizer("")["input_ids"]
    room = seq_len - len(prefix)
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: windows * room]
    total = 0.0
    count = 0
    for begin in range(0, len(ids) - room + 1, room):
        window = torch.tensor([prefix + ids[begin : begin + room]])
        with torch.no_grad():
            logs = network(window).logits[0].double().log_softmax(-1)
        for position in range(max(len(prefix), 1), window.shape[1]):
            total -= float(logs[position - 1, window[0, position]])
            count += 1
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("source")
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seq-len", type=int, default=512)
    args = parser.parse_args()
    path = resolve(model_path(args.model))
    source = Source.parse(args.source)
    options = EvaluateOptions(
        perplexity=(args.source,), windows=args.windows, seq_len=args.seq_len, latency=None
    )
    ours = measure(path, options).metrics[f"perplexity/{source.label}"]
    theirs = independent(
        path, Path(source.name).read_text(encoding="utf-8"), args.windows, args.seq_len
    )
    print(
        f"edgewright {ours:.6f}, independent {theirs:.6f}, "
        f"relative difference {abs(ours - theirs) / theirs:.1e}"
    )


if __name__ == "__main__":
    main()
