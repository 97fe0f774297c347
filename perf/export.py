"""Time and peak memory of an export with its comparison, beside the bar: 1.3 times the weights written, and 1.5 GB.

    python -m edgewright.perf.export GEMMA --precision fp32
    python -m edgewright.perf.export GEMMA-GPTQ --format ort --precision int4
    python -m edgewright.perf.export --layers 28 --precision fp32

Each export runs in a process of its own, as `edgewright export` does it: graph, check, comparison with torch. The peak is its largest
resident set (VmHWM) above that of a process that only imports torch. Without a model, one of Qwen2.5-1.5B's shape with random bf16
weights is written first, into a temporary directory, with so many `--layers`.
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
from edgewright.steps import CalibrationData, StepContext
print(*export(ExportOptions(**{options!r}), Path({source!r}), Path({out!r}), StepContext(CalibrationData({text!r}))).notes)
"""
FACTOR, BASE = 1.3, 1.5e9


def measure(source: Path, out: Path, options: dict[str, Any], text: str) -> dict[str, Any]:
    """Seconds, bytes and the bar of one export."""
    empty, _, _ = peak(EMPTY)
    highest, seconds, told = peak(
        EXPORT.format(options=options, source=str(source), out=str(out), text=text)
    )
    written = sum((out / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    bar = FACTOR * written + BASE
    return {
        **options,
        "written_gb": round(written / 1e9, 3),
        "seconds": round(seconds, 1),
        "peak_gb": round(highest / 1e9, 3),
        "above_empty_gb": round((highest - empty) / 1e9, 3),
        "bar_gb": round(bar / 1e9, 3),
        "holds": highest - empty <= bar,
        "told": told,
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
        help="of the random model that is made where none is given",
    )
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--text", default="builtin:reasoning", help="what the comparison runs on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = args.model or Path(folder) / "model"
        if args.model is None:
            build(source, args.layers)
        options = {"format": args.format, "precision": args.precision}
        print(json.dumps(measure(source, Path(folder) / "out", options, args.text), indent=2))


if __name__ == "__main__":
    main()
