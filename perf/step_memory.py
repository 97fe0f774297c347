"""Compare the memory that is predicted for each kind of step with what it takes.

    python -m edgewright.perf.step_memory --work DIR --sizes 50,150,500
    python -m edgewright.perf.step_memory --work DIR --model MODEL --only quantize

Random models of about 50, 150 and 500 million parameters (bf16) are written to DIR, or MODEL is
used. Each verb runs in a process of its own. The output is a table: predicted and measured peak
(`predicted_bytes` and `peak_rss_bytes` of the verb's own JSON) and their ratio, which should be 0.9
to 1.5: below, a run may be killed; above, a run that fits is refused. Rows that are in
DIR/step_memory.json already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .random_checkpoint import QWEN2, write_random
from .verb_memory import run_verb_once

SIZES: dict[str, dict[str, Any]] = {
    "50": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "vocab": 32000},
    "150": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "vocab": 32000},
    "500": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "vocab": 151936,
    },
}
CALIBRATION = ("--calibration", "builtin:reasoning", "--samples", "8", "--seq-len", "128")
TRAINING = ("--data", "builtin:reasoning", "--batch-size", "4", "--seq-len", "128")
TEXT = ("--calibration", "builtin:reasoning", "--seq-len", "128")
CASES: dict[str, tuple[str, ...]] = {
    "prune, norm": ("prune", "--heads", "0.5", "--criterion", "norm", *CALIBRATION),
    "prune, taylor": ("prune", "--heads", "0.5", "--criterion", "taylor", *CALIBRATION),
    "prune, 2:4": ("prune", "--sparsity", "2:4", *CALIBRATION),
    "quantize, rtn": ("quantize", "--method", "rtn", *CALIBRATION),
    "quantize, gptq": ("quantize", "--method", "gptq", *CALIBRATION),
    "quantize, awq": ("quantize", "--method", "awq", *CALIBRATION),
    "distill, labels": ("distill", "--teacher", "none", "--label-steps", "2", *TRAINING),
    "distill, lora": (
        *("distill", "--teacher", "none", "--lora", "16", "--label-steps", "2"),
        *TRAINING,
    ),
    "export, fp32": ("export", "--precision", "fp32", *TEXT),
    "export, fp16": ("export", "--precision", "fp16", *TEXT),
    "export, int8-dynamic": ("export", "--precision", "int8-dynamic", *TEXT),
}
"""Verbs and options; the model comes after the verb."""


def config_of(size: str) -> dict[str, Any]:
    """The config.json of a random model."""
    sizes = dict(SIZES[size])
    return {
        **QWEN2,
        "vocab_size": sizes.pop("vocab"),
        **sizes,
        "num_attention_heads": sizes["hidden_size"] // 64,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }


def models(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Name and directory of each model to measure on; random ones are written if missing."""
    if args.model:
        yield args.model.name, args.model
        return
    for size in args.sizes.split(","):
        folder = args.work / f"random-{size}"
        if not folder.exists():
            write_random(folder, config_of(size))
        yield f"{size} M", folder


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sizes", default="50,150,500")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    file = args.work / "step_memory.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    print("| model | step | predicted | measured | ratio | seconds |\n|---|---|---|---|---|---|")
    for name, model in models(args):
        for case, (verb, *options) in CASES.items():
            key = f"{name}: {case}"
            if not case.startswith(args.only):
                continue
            if key not in found:
                found[key] = _measure(verb, model, options, args.work)
                file.write_text(json.dumps(found, indent=1))
            print(_row(name, case, found[key]), flush=True)


def _measure(verb: str, model: Path, options: list[str], work: Path) -> dict[str, Any]:
    """Predicted and measured bytes of one verb, or its error."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    run = run_verb_once([verb, str(model), *options, "--out", str(out)], work / "log")
    shutil.rmtree(out, ignore_errors=True)
    names = ("predicted_bytes", "peak_rss_bytes", "seconds")
    return {"error": run.error, **{name: run.printed.get(name) for name in names}}


def _row(name: str, case: str, one: dict[str, Any]) -> str:
    if one["error"] or not one["peak_rss_bytes"]:
        return f"| {name} | {case} | failed: {one['error'].strip().splitlines()[:1]} | | | |"
    predicted, measured = one["predicted_bytes"], one["peak_rss_bytes"]
    sizes = f"{predicted / 1e9:.2f} GB | {measured / 1e9:.2f} GB"
    return f"| {name} | {case} | {sizes} | {predicted / measured:.2f} | {one['seconds']:.0f} |"


if __name__ == "__main__":
    main()
