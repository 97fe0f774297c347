r"""Compare our quantization with other tools: time, memory, perplexity and KL on unseen text.

    python -m edgewright.perf.quantization MODEL --text wikitext2_valid.txt \
        --gptqmodel .compat/gptqmodel/bin/python
    python -m edgewright.perf.quantization MODEL --text wikitext2_valid.txt --calibration \
        jsonl:chats.jsonl --gptqmodel .compat/gptqmodel/bin/python

Each side is a process of its own that gets the same rows of tokens and writes a checkpoint. Its
time is that of the whole process, its memory the largest resident set. The time of all processors
is printed too: it changes less if other work runs on the machine. The sides take turns, `--rounds`
times. The first part of the text is for calibration, and the windows after it are scored. With
`--calibration SOURCE` the rows are those of `edgewright quantize`, and the text is only scored.
Scores are in float32, by the same code for all checkpoints; KL is from the unquantized model.
All tools compute in float32 where the processor would have to emulate bfloat16, which is several
times slower. ModelOpt (`--modelopt`, an environment from compat/modelopt.txt) writes no checkpoint
that can be scored here. It scores itself, and its time ends before that.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from ..benchmarks.tasks.accuracy import TextScores, score_text
from ..benchmarks.tasks.backends import TorchBackend
from ..checkpoints.compute_dtype import bf16_is_fast
from ..checkpoints.tokenizer import load_tokenizer
from ..data.packing import Encoded
from ..data.sources import Source, scoring_rows
from ..steps.context import CalibrationData
from ..steps.own_text import OwnText
from .quantization_tools import MODELOPT, PEAK, TOOLS

OURS = """
import json, sys
from pathlib import Path
import torch
from edgewright.compress.quantize.options import QuantizeOptions
from edgewright.compress.quantize.runner import quantize
from edgewright.data.rows import RowReport
from edgewright.steps.context import CalibrationData, CalibrationRows, StepContext
given = json.load(open(sys.argv[3]))
class Rows(CalibrationData):
    def rows(self, model, seed):
        tensors = [torch.tensor([row["ids"], row["labels"]]) for row in given]
        return CalibrationRows(tensors, RowReport())
calibration = Rows(sys.argv[3], len(given), len(given[0]["ids"]))
options = QuantizeOptions(**json.loads(sys.argv[4]))
quantize(options, Path(sys.argv[1]), Path(sys.argv[2]), StepContext(calibration=calibration))
"""
SEED = 0


def main() -> None:
    """Run all sides in turns, and print the results."""
    args = _arguments()
    rows, held_out = _data(args)
    print(
        f"{len(rows)} rows of {args.seq_len} tokens of {args.calibration or args.text} for "
        f"calibration, {len(held_out)} windows of {args.text} for scoring",
        flush=True,
    )
    baseline = _scored(args.model, held_out)
    print(f"unquantized: perplexity {baseline.perplexity:.2f} +- {baseline.stderr:.2f}", flush=True)
    taken = _take_turns(args, rows, held_out)
    first, *others = taken
    for other in others:
        ratio = min(taken[first]) / min(taken[other])
        print(f"{first} takes {ratio:.2f} of the time of {other}", flush=True)


def _data(args: argparse.Namespace) -> tuple[list[Encoded], list[Encoded]]:
    """Rows to calibrate on, the same for all sides, and windows to score."""
    text = Source.parse(f"text:{args.text}")
    tokenizer = load_tokenizer(args.model)
    if args.calibration is None:
        count = args.samples + args.windows
        windows = scoring_rows(tokenizer, text, args.seq_len, count)
        return windows[: args.samples], windows[args.samples :]
    asked = CalibrationData(args.calibration, args.samples, args.seq_len)
    data = asked.resolved(OwnText(args.model, "cpu", SEED), needed=True)
    rows = data.rows(args.model, SEED)
    for note in data.notes(rows):
        print(note, flush=True)
    encoded = [Encoded(*row.tolist()) for row in rows]
    return encoded, scoring_rows(tokenizer, text, args.seq_len, args.windows)


def _take_turns(
    args: argparse.Namespace, rows: list[Encoded], held_out: list[Encoded]
) -> dict[str, list[float]]:
    """Run all sides `--rounds` times, and print what each run took; the first is scored, too.

    Returns:
        The seconds of each side, by name.
    """
    with nullcontext(args.keep) if args.keep else tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("rows.json", "held_out.json")]
        for file, part in zip(files, (rows, held_out), strict=True):
            file.write_text(json.dumps([vars(row) for row in part]))
        sides = _sides(args, *files)
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(args.rounds):
            for name, command in sides.items():
                out = Path(folder).absolute() / f"{name}-{number}".replace(" ", "-")
                seconds, printed = _timed(
                    [*command[:3], str(args.model.absolute()), str(out), *command[3:]],
                    args.threads,
                    folder,
                )
                report = json.loads(printed.splitlines()[-1])
                taken[name].append(report.get("seconds", seconds))
                scores = None
                if number == 0 and "perplexity" not in report:
                    scores = _scored(out, held_out, args.model)
                print(f"{name}: {_described(taken[name][-1], report, scores)}", flush=True)
    return taken


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", required=True, help="a text file; what is scored")
    parser.add_argument(
        "--calibration",
        metavar="SOURCE",
        help="as of `edgewright quantize`: jsonl:FILE, builtin:own, ...; default: the text's "
        "beginning",
    )
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="an existing directory: keep the checkpoints")
    parser.add_argument(
        "--ours",
        nargs="+",
        default=['{"method": "gptq"}', '{"method": "rtn"}'],
        help="our quantization options as JSON; the first are compared with the others",
    )
    for tool in TOOLS:
        parser.add_argument(
            _option(tool), type=Path, help=f"the Python interpreter of an environment with {tool}"
        )
    parser.add_argument(
        "--modelopt", type=Path, help="the Python interpreter of an environment with ModelOpt"
    )
    return parser.parse_args()


def _option(tool: str) -> str:
    return "--" + tool.replace("-", "").lower()


def _sides(args: argparse.Namespace, rows: Path, held_out: Path) -> dict[str, list[str]]:
    """Name -> interpreter, script and arguments. Model and output go after the script."""
    sides = {
        f"edgewright {options}": [sys.executable, "-c", OURS + PEAK, str(rows), options]
        for options in args.ours
    }
    dtype = "bfloat16" if bf16_is_fast("cpu") else "float32"
    for tool, program in TOOLS.items():
        if python := vars(args)[_option(tool).strip("-")]:
            sides[tool] = [str(python.absolute()), "-c", program + PEAK, str(rows), dtype]
    if args.modelopt:
        sides["ModelOpt"] = [
            str(args.modelopt.absolute()),
            "-c",
            MODELOPT,
            str(rows),
            str(held_out),
        ]
    return sides


def _timed(command: list[str], threads: int, folder: str) -> tuple[float, str]:
    """Run a command in `folder`; returns its seconds and its standard output.

    The last line of the output has the peak memory. wait4 cannot measure it, because its value
    begins with the peak of this process.
    """
    settings = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "GPTQMODEL_CPU_WORKERS": str(max(2, threads)),  # GPTQModel refuses 1
    }
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        process = subprocess.Popen(
            command, env=os.environ | settings, cwd=folder, stdout=out, stderr=error
        )
        status = process.wait()
        seconds = time.perf_counter() - begin
        for file in (out, error):
            file.seek(0)
        if status:
            sys.exit(f"{command[0]} failed:\n{error.read()[-2000:]}")
        return seconds, out.read()


def _described(seconds: float, report: dict[str, float], scores: TextScores | None) -> str:
    text = f"{seconds:.0f} s, {report['peak']:.2f} GB"
    if "cpu" in report:
        text += f", {report['cpu']:.0f} s of processors"
    if "perplexity" in report:
        text += f", perplexity {report['perplexity']:.2f}"
    if scores:
        text += f", perplexity {scores.perplexity:.2f} +- {scores.stderr:.2f}, KL {scores.kl:.4f}"
    return text


def _scored(path: Path, rows: list[Encoded], reference: Path | None = None) -> TextScores:
    return score_text(TorchBackend(path), rows, TorchBackend(reference) if reference else None)


if __name__ == "__main__":
    main()
