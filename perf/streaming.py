"""Measure the peak memory of pruning or quantizing a 1.5 B model that is streamed from disk.

    python -m edgewright.perf.streaming --rows 8 --seq-len 256
    python -m edgewright.perf.streaming --rows 8 --seq-len 256 --quantize '{"method": "gptq"}'

A checkpoint of Qwen2.5-1.5B's shape with random bf16 weights (3.1 GB) is written to a temporary
directory, tensor by tensor. Two programs run, each in a process of its own: importance scores by
one criterion, and the whole prune step (scores, refit, cut, check). The output is the peak resident
set (VmHWM) of each, minus that of a process that only imports torch, beside the value that `plan`
predicts, and seconds. `--layers 4` makes a model small enough for the criterion `taylor`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ..checkpoints.config import read_architecture
from ..compress.prune.memory import prune_memory
from .random_checkpoint import QWEN2, QWEN2_1_5B, write_random

CONFIG: dict[str, Any] = {
    **QWEN2,
    **QWEN2_1_5B,
}
EMPTY = "import torch, transformers; from transformers import AutoModelForCausalLM"
HIGHEST = """
status = open("/proc/self/status")
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM")))
"""
PREPARE = """
from pathlib import Path
from edgewright.checkpoints.config import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.compress.calibration.activation_buffer import ActivationBuffer
from edgewright.compress.prune.options import PruneOptions
from edgewright.compress.prune.runner import prune
from edgewright.compress.prune.scoring import score_layers, score_model
from edgewright.steps.context import CalibrationData, StepContext
source, out = Path({source!r}), Path({out!r})
calibration = CalibrationData(samples={rows}, seq_len={seq_len})
context = StepContext(calibration, activation_budget={budget}, proof={proof!r})
"""
SCORE = """
rows = context.calibration.rows(source, 0)
buffer = ActivationBuffer({budget}, out.parent)
"""
SCORES = {
    "taylor": SCORE
    + "score_model(load_model(source), read_architecture(source), rows, 'taylor')\n",
    "streamed": SCORE + "score_layers(Streamed(source), rows, {criterion!r}, 0, buffer)\n",
}
PRUNE = """
options = PruneOptions(ffn={ffn}, criterion={criterion!r}, compensate={compensate})
print(prune(options, source, out, context).notes)
"""
QUANTIZE = """
from dataclasses import replace
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
# The dependencies turn on the resume journal, which the command line also uses.
context = replace(context, depends_on=dict(source=str(source)))
print(quantize(QuantizeOptions(**{options!r}), source, out, context).notes)
"""


def build(folder: Path, layers: int) -> None:
    """Write the checkpoint."""
    write_random(folder, {**CONFIG, "num_hidden_layers": layers})


def peak(program: str) -> tuple[int, float, str]:
    """Run a program in a fresh process; returns its peak in bytes, its seconds, and its output."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{HIGHEST}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    *printed, highest = done.stdout.splitlines()
    return 1024 * int(highest), time.monotonic() - begin, " ".join(printed)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--ffn", type=float, default=0.5, help="share of FFN neurons to remove")
    parser.add_argument("--criterion", default="activation")
    parser.add_argument(
        "--activation-budget",
        type=int,
        default=8,
        help="MiB of hidden states to keep in memory; the rest is in a file",
    )
    parser.add_argument("--proof", default="streamed")
    parser.add_argument("--no-prune", action="store_true", help="scores only")
    parser.add_argument("--no-compensate", action="store_true", help="without refitting")
    parser.add_argument(
        "--quantize",
        type=json.loads,
        metavar="OPTIONS",
        help="quantize instead of pruning, with these options as JSON",
    )
    return parser.parse_args()


def main() -> None:
    """Build the model, run the programs, and print their peaks."""
    args = _arguments()
    budget = args.activation_budget << 20
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model"
        build(source, args.layers)
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        empty, _, _ = peak(EMPTY)
        print(
            f"{args.layers} layers, {size / 1e9:.2f} GB on disk, {args.rows} rows of "
            f"{args.seq_len}, budget {budget / 2**20:.0f} MiB"
        )
        print(f"empty process: {empty / 1e9:.2f} GB")
        fields = {
            "source": str(source),
            "out": f"{folder}/out",
            "rows": args.rows,
            "seq_len": args.seq_len,
            "budget": budget,
            "criterion": args.criterion,
            "ffn": args.ffn,
            "proof": args.proof,
            "compensate": not args.no_compensate,
        }
        if args.quantize is None:
            _measure_pruning(args, fields, empty)
            return
        found, seconds, printed = peak((PREPARE + QUANTIZE).format(**fields, options=args.quantize))
        report = {
            "what": args.quantize,
            "above_empty_gb": round((found - empty) / 1e9, 3),
            "seconds": round(seconds, 1),
            "notes": printed,
        }
        print(json.dumps(report))


def _measure_pruning(args: argparse.Namespace, fields: dict[str, Any], empty: int) -> None:
    """Measure the scores alone and then the whole step, beside the planned memory."""
    source = Path(fields["source"])
    model = read_architecture(source)
    tokens = args.rows * args.seq_len
    programs = {"scores": SCORES.get(args.criterion, SCORES["streamed"]), "whole step": PRUNE}
    for name, program in list(programs.items())[: 1 if args.no_prune else 2]:
        found, seconds, printed = peak((PREPARE + program).format(**fields))
        whole = name != "scores"
        small = read_architecture(Path(fields["out"])) if whole else model
        planned = prune_memory(
            model,
            small,
            args.criterion,
            tokens,
            args.seq_len,
            fields["budget"],
            compensate=whole and not args.no_compensate,
        )
        report = {
            "what": name,
            "criterion": args.criterion,
            "peak_gb": round(found / 1e9, 3),
            "above_empty_gb": round((found - empty) / 1e9, 3),
            "planned_gb": round(planned / 1e9, 3),
            "seconds": round(seconds, 1),
            "notes": printed,
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
