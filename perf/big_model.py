"""Plan, prune, quantize and export a model that is larger than the memory that may be used.

    python -m edgewright.perf.big_model --work DIR --size 7b
    python -m edgewright.perf.big_model --work DIR --size 1b --layers 4

A random checkpoint of Qwen2.5's sizes is written to DIR (bf16; 15.2 GB in four files for 7b). Then
each verb runs in a process of its own: plan, prune (a quarter of the heads, by norm), quantize
(GPTQ in 4 bits on 16 rows of 256 tokens, head in 8 bits), and export (portable ONNX, INT4). Prune
and quantize are killed (SIGKILL) once, and run again with the same command.

Every finished part is recorded in DIR/SIZE.json, and messages are in DIR/SIZE.log. The same command
resumes; parts that are done are not repeated. Large directories are removed as soon as no later
part reads them, and all at the end.

The output is a table: the peak resident set (VmHWM), the part of it that no file holds, and the
prediction. The limit holds for the latter part: pages of mapped files go back to the system when
memory is short.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .random_checkpoint import QWEN2, QWEN2_1_5B, write_random
from .verb_memory import run_verb_once

SIZES: Mapping[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
        "tie_word_embeddings": True,
    },
    "1b": QWEN2_1_5B,
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}
"""The sizes of Qwen2.5 1.5B, 3B and 7B, and a model to try this program on."""
LIMIT_BYTES = 8e9
SPARE_BYTES = 2e9
"""Disk space that is left free beside what is written."""
DISK_FACTOR = 2.1
"""Space at the highest point, in sizes of the model: itself and its pruned copy."""
ROWS = ("--calibration", "builtin:reasoning", "--samples", "16", "--seq-len", "256")


class Campaign:
    """The parts of one model, of which the finished ones are kept in a file."""

    def __init__(self, work: Path, name: str, config: Mapping[str, Any], kill_after: float) -> None:
        self.work = work
        self.config = config
        self.kill_after = kill_after
        self._file = work / f"{name}.json"
        self._log = work / f"{name}.log"
        self.done: dict[str, Any] = (
            json.loads(self._file.read_text()) if self._file.exists() else {}
        )

    def part(self, name: str, work: Callable[[], Any]) -> None:
        """Do a part and record what it returns, unless that is recorded already."""
        if name in self.done:
            return
        print(f"{name} ...", file=sys.stderr, flush=True)
        self.done[name] = work()
        self._file.write_text(json.dumps(self.done, indent=1))

    def verb(self, name: str, *arguments: str, kill: bool = False) -> None:
        """Run a verb as a part; kill it once before, if asked."""
        if kill:
            self.part(f"{name}, killed", lambda: self._run(arguments, self.kill_after))
        self.part(name, lambda: self._run(arguments, None))

    def _run(self, arguments: tuple[str, ...], kill_after: float | None) -> dict[str, Any]:
        run = run_verb_once(arguments, self._log, kill_after)
        if run.error:
            sys.exit(f"{' '.join(arguments)}\n{run.error}")
        return {
            **run.record(),
            "was_killed": run.was_killed,
            "predicted_bytes": run.printed.get("predicted_bytes"),
        }

    def run(self) -> None:
        """Do all parts that are not done."""
        model, pruned, packed, artifact = (
            self.work / name for name in ("model", "pruned", "packed", "artifact")
        )
        self.part("write", lambda: self._write(model))
        self.verb("plan", "plan", str(model), "--target", "jetson-orin-nx-16gb")
        cut = ("--heads", "0.25", "--criterion", "norm", "--no-compensate", "--proof", "streamed")
        self.verb("prune", "prune", str(model), *cut, *ROWS, "--out", str(pruned), kill=True)
        shutil.rmtree(model, ignore_errors=True)
        rounding = ("--method", "gptq", "--head-bits", "8", "--activation-budget", "0.25")
        self.verb(
            *("quantize", "quantize", str(pruned), *rounding, *ROWS, "--out", str(packed)),
            kill=True,
        )
        shutil.rmtree(pruned, ignore_errors=True)
        text = ("--calibration", "builtin:reasoning", "--seq-len", "64")
        written = ("--precision", "int4", "--out", str(artifact))
        self.verb("export", "export", str(packed), *text, *written)
        for folder in (packed, artifact):
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, model: Path) -> dict[str, Any]:
        shutil.rmtree(model, ignore_errors=True)
        write_random(model, self.config)
        sizes = [file.stat().st_size for file in model.glob("*.safetensors")]
        return {"weight_bytes": sum(sizes), "files": len(sizes)}

    def table(self) -> str:
        """The finished parts as Markdown."""
        written = self.done["write"]
        lines = [
            f"{written['weight_bytes'] / 1e9:.2f} GB in {written['files']} files",
            "",
            "| | seconds | peak | of it in no file | predicted |",
            "|---|---|---|---|---|",
        ]
        for name, one in self.done.items():
            if name != "write":
                predicted = one["predicted_bytes"]
                lines.append(
                    f"| {name}{' -9' if one['was_killed'] else ''} | {one['seconds']:.0f} | "
                    f"{one['peak_bytes'] / 1e9:.2f} GB | {one['anonymous_bytes'] / 1e9:.2f} GB | "
                    f"{f'{predicted / 1e9:.2f} GB' if predicted else ''} |"
                )
        return "\n".join(lines)

    @property
    def highest(self) -> float:
        """The most bytes that a part had in no file."""
        return max(one.get("anonymous_bytes", 0) for one in self.done.values())


def main() -> None:
    """Run what is left of the campaign, print its table, and judge the peak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--size", choices=tuple(SIZES), default="1b")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--kill-after", type=float, default=60.0, help="seconds until SIGKILL")
    args = parser.parse_args()
    sizes = SIZES[args.size] | ({"num_hidden_layers": args.layers} if args.layers else {})
    name = f"{args.size}-{sizes['num_hidden_layers']}"
    args.work.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(args.work, name, {**QWEN2, **sizes}, args.kill_after)
    _check_disk(args.work, sizes, started="write" in campaign.done)
    campaign.run()
    print(f"{name}: {campaign.table()}")
    if campaign.highest > LIMIT_BYTES:
        sys.exit(f"the peak is above {LIMIT_BYTES / 1e9:.0f} GB")


def _check_disk(work: Path, sizes: Mapping[str, Any], *, started: bool) -> None:
    """Stop if the disk would be full before the end."""
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv = hidden // heads * sizes["num_key_value_heads"]
    layer = hidden * (2 * hidden + 2 * kv + 3 * sizes["intermediate_size"])
    tables = (1 if sizes["tie_word_embeddings"] else 2) * hidden * sizes["vocab_size"]
    needed = DISK_FACTOR * 2 * (sizes["num_hidden_layers"] * layer + tables) + SPARE_BYTES
    free = shutil.disk_usage(work).free
    if not started and free < needed:
        sys.exit(f"{work}: {needed / 1e9:.0f} GB are needed and {free / 1e9:.0f} GB are free")


if __name__ == "__main__":
    main()
