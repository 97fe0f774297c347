"""Compare the peak memory of two ways to compute a distillation loss: in chunks, or at once.

    python -m edgewright.perf.logits --tokens 4096 --vocab 151936 --width 64

`chunked` computes the logits of a few positions at a time, as distillation does. `whole` computes
all logits at once. Each runs in a process of its own: teacher and student heads with `--width`
inputs on random hidden states, forward KL and backward. The output is the peak resident set
(VmHWM) minus that before the loss, the loss, the norm of the hidden states' gradient, and seconds.
`--only chunked` leaves out `whole`, which needs tens of gigabytes at the default size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compress.distill.losses import divergence, in_chunks
from ..compress.distill.teacher_logits import LOGITS_AT_ONCE


def peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(kind: str, tokens: int, vocab: int, width: int) -> None:
    """Measure one of the two ways, and print its line of the table."""
    torch.manual_seed(0)
    student = nn.Linear(width, vocab, bias=False)
    teacher = nn.Linear(width, vocab, bias=False)
    hidden = torch.randn(tokens, width).requires_grad_()
    expected = torch.randn(tokens, width)

    def part(at: slice) -> Tensor:
        with torch.no_grad():
            log_p = F.log_softmax(teacher(expected[at]).float(), -1)
        return divergence(log_p, F.log_softmax(student(hidden[at]).float(), -1))

    before = peak()
    begin = time.perf_counter()
    size = tokens if kind == "whole" else LOGITS_AT_ONCE // vocab + 1
    loss = in_chunks(tokens, size, part) / tokens
    loss.backward()
    assert hidden.grad is not None
    seconds = time.perf_counter() - begin
    above = (peak() - before) / 1e9
    print(
        f"| {kind} | {tokens} | {above:.2f} GB | {float(loss.detach()):.6f} "
        f"| {float(hidden.grad.norm()):.6e} | {seconds:.1f} |",
        flush=True,
    )


def main() -> None:
    """Measure both ways, one process after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in (("tokens", 4096), ("vocab", 151936), ("width", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=("chunked", "whole"))
    parser.add_argument("--here", action="store_true", help="measure in this process")
    args = parser.parse_args()
    if args.here:
        return measure(args.only, args.tokens, args.vocab, args.width)
    print(
        "| logits | tokens | peak above start | loss | gradient norm | seconds |\n"
        "|---|---|---|---|---|---|",
        flush=True,
    )
    sizes = [f"--{name}={getattr(args, name)}" for name in ("tokens", "vocab", "width")]
    for kind in [args.only] if args.only else ["chunked", "whole"]:
        subprocess.run(
            [sys.executable, "-m", "edgewright.perf.logits", "--here", "--only", kind, *sizes],
            check=True,
        )


if __name__ == "__main__":
    main()
