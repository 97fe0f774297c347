"""Peak memory of pruning or quantizing a 1.5 B model that is streamed from disk, above that of a process which only imports torch.

    python -m edgewright.perf.streaming --rows 8 --seq-len 256
    python -m edgewright.perf.streaming --rows 8 --seq-len 256 --quantize '{"method": "gptq"}'

Builds a checkpoint of Qwen2.5-1.5B's shape with random bf16 weights (3.1 GB, written tensor by tensor) in a temporary directory,
and runs, each in a process of its own: the scores by one criterion, then scores + refit + cut + proof. Prints each one's peak
resident set (VmHWM) beside what `plan` says, and seconds. `--layers 4` makes a smaller model, which `taylor` can be tried on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoints.config import BUILTIN_MODEL, model_path
from ..checkpoints.files import read_architecture, write_checkpoint
from ..checkpoints.safetensors_writer import Pending
from ..compress.prune.memory import prune_memory

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EMPTY = "import torch, transformers; from transformers import AutoModelForCausalLM"
HIGHEST = "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')))"
PREPARE = """
from pathlib import Path
from edgewright.checkpoints.files import read_architecture
from edgewright.checkpoints.loading import load_model
from edgewright.checkpoints.streaming import Streamed
from edgewright.compress.calibration.activation_buffer import Room
from edgewright.compress.prune.scoring import score_layers, score_model
from edgewright.compress.prune.runner import PruneOptions, prune
from edgewright.steps.context import CalibrationData, StepContext
source, out = Path({source!r}), Path({out!r})
context = StepContext(CalibrationData(samples={rows}, seq_len={seq_len}), activation_budget={budget}, proof={proof!r})
"""
SCORE = "rows = context.calibration.rows(source, 0); room = Room({budget}, out.parent)\n"
SCORES = {
    "taylor": SCORE
    + "score_model(load_model(source), read_architecture(source), rows, 'taylor')\n",
    "streamed": SCORE + "score_layers(Streamed(source), rows, {criterion!r}, 0, room)\n",
}
PRUNE = "result = prune(PruneOptions(ffn={ffn}, criterion={criterion!r}, compensate={compensate}), source, out, context)\nprint(result.notes)\n"

QUANTIZE = """
from dataclasses import replace
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
context = replace(context, depends_on=dict(source=str(source)))  # with a journal, as the command line has it
print(quantize(QuantizeOptions(**{options!r}), source, out, context).notes)
"""


def build(folder: Path, layers: int) -> None:
    """Write the checkpoint, a tensor at a time."""
    from accelerate import init_empty_weights  # late: slow to import
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**CONFIG, "num_hidden_layers": layers}
    with init_empty_weights():
        model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    specs = {
        name: t.to(torch.bfloat16)
        for name, t in model.state_dict().items()
        if name != "lm_head.weight"
    }

    def tensors() -> Iterator[tuple[str, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        for name, spec in specs.items():
            made = torch.full(spec.shape, float("norm" in name), dtype=torch.bfloat16)
            yield (
                name,
                made.normal_(0, spec.shape[1] ** -0.5, generator=generator)
                if spec.ndim > 1
                else made,
            )

    write_checkpoint(folder, Pending(specs, tensors()), config, Path(model_path(BUILTIN_MODEL)), {})


def peak(program: str) -> tuple[int, float, str]:
    """Bytes of the largest resident set of a fresh process, its seconds, and what it printed before."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\n{HIGHEST}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    *told, highest = done.stdout.splitlines()
    return 1024 * int(highest), time.monotonic() - begin, " ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--ffn", type=float, default=0.5, help="share of FFN neurons that goes")
    parser.add_argument("--criterion", default="activation")
    parser.add_argument(
        "--activation-budget",
        type=int,
        default=8,
        help="MiB of hidden states in memory, the rest in a file",
    )
    parser.add_argument("--proof", default="streamed")
    parser.add_argument("--no-prune", action="store_true", help="scores only")
    parser.add_argument("--no-compensate", action="store_true", help="no refit")
    parser.add_argument(
        "--quantize",
        type=json.loads,
        metavar="OPTIONS",
        help="quantize instead, with these options as JSON",
    )
    args = parser.parse_args()
    budget = args.activation_budget << 20
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model"
        build(source, args.layers)
        size = sum(file.stat().st_size for file in source.glob("*.safetensors"))
        empty, _, _ = peak(EMPTY)
        print(
            f"{args.layers} layers, {size / 1e9:.2f} GB on disk, {args.rows} rows of {args.seq_len}, budget {budget / 2**20:.0f} MiB"
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
        if args.quantize is not None:
            found, seconds, told = peak(
                (PREPARE + QUANTIZE).format(**fields, options=args.quantize)
            )
            above = round((found - empty) / 1e9, 3)
            print(
                json.dumps(
                    {
                        "what": args.quantize,
                        "above_empty_gb": above,
                        "seconds": round(seconds, 1),
                        "told": told,
                    }
                )
            )
            return
        programs = {"scores": SCORES.get(args.criterion, SCORES["streamed"]), "whole step": PRUNE}
        for name, program in list(programs.items())[: 1 if args.no_prune else 2]:
            found, seconds, told = peak((PREPARE + program).format(**fields))
            model, tokens = read_architecture(source), args.rows * args.seq_len
            whole, refit = name != "scores", name != "scores" and not args.no_compensate
            small = read_architecture(Path(folder) / "out") if whole else model
            planned = prune_memory(
                model, small, args.criterion, tokens, args.seq_len, budget, compensate=refit
            )
            print(
                json.dumps(
                    {
                        "what": name,
                        "criterion": args.criterion,
                        "peak_gb": round(found / 1e9, 3),
                        "above_empty_gb": round((found - empty) / 1e9, 3),
                        "planned_gb": round(planned / 1e9, 3),
                        "seconds": round(seconds, 1),
                        "told": told,
                    }
                )
            )


if __name__ == "__main__":
    main()
