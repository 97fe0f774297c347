"""AWQ here and in ModelOpt (INT4_AWQ_CFG), on the same rows, one after the other in turns: seconds, peak memory, held-out perplexity.

    python -m edgewright.perf.awq MODEL --calibration text:valid-a.txt --held-out text:valid-b.txt --rounds 3

Each side runs in a process of its own and starts from the checkpoint. Seconds are those of quantizing, the model read
but nothing measured; the peak resident set is taken before perplexity is. ModelOpt needs an environment of its own:

    python -m venv .compat/modelopt && .compat/modelopt/bin/python -m pip install -r compat/modelopt.txt
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..errors import UsageError
from ..steps import CalibrationData

PYTHON = Path(__file__).parents[1] / ".compat" / "modelopt" / "bin" / "python"
COMMON = """
import json, math, sys, time
from pathlib import Path
import torch
from safetensors.torch import load_file
arguments = json.loads(sys.argv[1])
rows = load_file(arguments["rows"])
def peak():
    return next(1024 * int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
def perplexity(model):
    total = count = 0
    with torch.no_grad():
        for row in rows["held_out"]:
            logits = model(input_ids=row[None], use_cache=False).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, row[1:], reduction="sum"))
            count += len(logits)
    return math.exp(total / count)
"""
OURS = """
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.loading import load_model
from edgewright.steps import CalibrationData, StepContext
begin = time.monotonic()
context = StepContext(CalibrationData(arguments["source"], arguments["samples"], arguments["seq_len"]))
quantize(QuantizeOptions(**arguments["options"]), Path(arguments["model"]), Path(arguments["out"]), context)
told = {"seconds": time.monotonic() - begin, "peak_rss_bytes": peak()}
told["perplexity"] = perplexity(load_model(Path(arguments["out"])))
print(json.dumps(told))
"""
THEIRS = """
import modelopt.torch.quantization as mtq
from transformers import AutoModelForCausalLM
begin = time.monotonic()
model = AutoModelForCausalLM.from_pretrained(arguments["model"], dtype=torch.float32).eval()
def calibrate(model):
    with torch.no_grad():
        for row in rows["calibration"]:
            model(input_ids=row[None], use_cache=False)
model = mtq.quantize(model, mtq.INT4_AWQ_CFG, calibrate)
told = {"seconds": time.monotonic() - begin, "peak_rss_bytes": peak()}
told["perplexity"] = perplexity(model)
print(json.dumps(told))
"""
FLOAT = """
from edgewright.loading import load_model
print(json.dumps({"perplexity": perplexity(load_model(Path(arguments["model"])))}))
"""


def figures(python: Path | str, program: str, arguments: dict[str, Any], threads: int) -> dict[str, float]:
    """What a side measured in a fresh process."""
    done = subprocess.run(
        [str(python), "-c", COMMON + program, json.dumps(arguments)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", required=True, help="SOURCE of the calibration rows")
    parser.add_argument("--held-out", required=True, help="SOURCE of the rows for perplexity, of which the calibration has none")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--windows", type=int, default=40, help="rows of held-out text")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--options", type=json.loads, default={"method": "awq"}, help="of our quantize step, as JSON")
    parser.add_argument("--modelopt-python", type=Path, default=PYTHON)
    args = parser.parse_args()
    if not args.modelopt_python.exists():
        raise UsageError(f"{args.modelopt_python}: not there", "make ModelOpt's environment as this module's description says")
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            name: torch.stack([row[0] for row in CalibrationData(source, count, args.seq_len).rows(args.model, 0)])
            for name, source, count in (
                ("calibration", args.calibration, args.samples), ("held_out", args.held_out, args.windows),
            )
        }  # fmt: skip
        save_file({name: ids.contiguous() for name, ids in rows.items()}, f"{folder}/rows.safetensors")
        arguments = {
            "model": str(args.model), "rows": f"{folder}/rows.safetensors", "source": args.calibration, "samples": args.samples,
            "seq_len": args.seq_len, "options": args.options,
        }  # fmt: skip
        print(json.dumps({"side": "float32", **figures(sys.executable, FLOAT, arguments, args.threads)}))
        sides: dict[str, list[dict[str, float]]] = {"edgewright": [], "modelopt": []}
        for number in range(args.rounds):
            for side, python, program in (("edgewright", sys.executable, OURS), ("modelopt", args.modelopt_python, THEIRS)):
                told = figures(python, program, {**arguments, "out": f"{folder}/out{number}"}, args.threads)
                sides[side].append(told)
                print(json.dumps({"side": side, "round": number, **told}), flush=True)
        seconds = {side: statistics.median(told["seconds"] for told in found) for side, found in sides.items()}
        print(json.dumps({"median_seconds": seconds, "ratio": seconds["edgewright"] / seconds["modelopt"]}))


if __name__ == "__main__":
    main()
