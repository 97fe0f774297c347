"""Measure time and peak memory of an export, and compare the peak with its limit.

    python -m edgewright.perf.export GEMMA --precision fp32
    python -m edgewright.perf.export GEMMA-GPTQ --format ort --precision int4
    python -m edgewright.perf.export --layers 28 --precision fp32

The limit is 1.3 times the size of the written weights, plus 1.5 GB. Each export runs in a process
of its own and does what `edgewright export` does, with the comparison against torch. The peak is
the largest resident set (VmHWM), minus that of a process that only imports torch. Without a model,
a random bf16 model of Qwen2.5-1.5B's shape with `--layers` layers is written to a temporary
directory first.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from .streaming import build, peak

EMPTY = "import torch"
EXPORT = """
from pathlib import Path
from edgewright.export.options import ExportOptions
from edgewright.export.runner import export
from edgewright.steps.context import CalibrationData, StepContext
options = ExportOptions(**{options!r})
context = StepContext(CalibrationData({text!r}))
print(*export(options, Path({source!r}), Path({out!r}), context).notes)
"""
LIMIT_FACTOR = 1.3
LIMIT_BASE = 1.5e9


def measure(source: Path, out: Path, options: dict[str, Any], text: str) -> dict[str, Any]:
    """Seconds and peak memory of one export, and the limit."""
    empty, _, _ = peak(EMPTY)
    highest, seconds, printed = peak(
        EXPORT.format(options=options, source=str(source), out=str(out), text=text)
    )
    written = sum((out / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    limit = LIMIT_FACTOR * written + LIMIT_BASE
    return {
        **options,
        "written_gb": round(written / 1e9, 3),
        "seconds": round(seconds, 1),
        "peak_gb": round(highest / 1e9, 3),
        "above_empty_gb": round((highest - empty) / 1e9, 3),
        "limit_gb": round(limit / 1e9, 3),
        "within_limit": highest - empty <= limit,
        "notes": printed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument(
        "--layers",
        type=int,
        default=28,
        help="layers of the random model that is used if no model is given",
    )
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--text", default="builtin:reasoning", help="text for the comparison")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.model or Path(folder) / "model"
        if args.model is None:
            build(source, args.layers)
        options = {"format": args.format, "precision": args.precision}
        print(json.dumps(measure(source, Path(folder) / "out", options, args.text), indent=2))


if __name__ == "__main__":
    main()
