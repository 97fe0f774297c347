"""Peak memory of the divergence on the logits, with its gradient: the head in chunks as distillation runs it, against whole logits.

    python -m edgewright.perf.logits --tokens 4096 --vocab 151936 --width 64

Each in a process of its own: teacher and student heads of `--width` inputs on random hidden states, forward KL, backward. Prints the peak
resident set (VmHWM) above that of the process before the loss, the loss, the norm of the hidden states' gradient, and seconds.
`--only chunked` leaves out whole logits, which need tens of gigabytes at the default size.
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
    """The highest resident set of this process so far, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure(kind: str, tokens: int, vocab: int, width: int) -> None:
    """Print one line of the table."""
    torch.manual_seed(0)
    student, teacher = (nn.Linear(width, vocab, bias=False) for _ in range(2))
    hidden, expected = torch.randn(tokens, width).requires_grad_(), torch.randn(tokens, width)

    def part(at: slice) -> Tensor:
        with torch.no_grad():
            log_p = F.log_softmax(teacher(expected[at]).float(), -1)
        return divergence(log_p, F.log_softmax(student(hidden[at]).float(), -1))

    before, begin = peak(), time.perf_counter()
    size = tokens if kind == "whole" else LOGITS_AT_ONCE // vocab + 1
    loss = in_chunks(tokens, size, part) / tokens
    loss.backward()
    assert hidden.grad is not None
    seconds, above = time.perf_counter() - begin, (peak() - before) / 1e9
    print(
        f"| {kind} | {tokens} | {above:.2f} GB | {float(loss.detach()):.6f} | {float(hidden.grad.norm()):.6e} | {seconds:.1f} |",
        flush=True,
    )


def main() -> None:
    """Both, one process after the other."""
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
        "| logits | tokens | peak above start | loss | gradient norm | seconds |\n|---|---|---|---|---|---|",
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
