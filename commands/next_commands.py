"""What to type after a verb: one command that can be copied."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

__all__ = ["after_bench", "after_run", "after_step", "after_traces"]

SOURCE = "text:FILE"
"""Stands for the user's own data."""


def after_step(kind: str, options: BaseModel, model: str, out: Path) -> str:
    """The usual next command for the result of a step.

    Args:
        kind: kind of the step.
        options: its options.
        model: what it read, as it was typed.
        out: what it made.
    """
    made = shlex.quote(str(out))
    source = shlex.quote(model)
    if kind == "prune":
        return (
            f"edgewright distill {made} --teacher {source} --data {SOURCE} "
            f"--out {_beside(out, 'taught')}"
        )
    if kind in ("distill", "iterate"):
        return f"edgewright quantize {made} --out {_beside(out, 'int4')}"
    if kind == "quantize" and (precision := _precision(options)):
        return f"edgewright export {made} --precision {precision} --out {_beside(out, 'onnx')}"
    if kind == "export" and getattr(options, "format", "onnx") not in ("onnx", "ort"):
        return f"edgewright deploy {made} --target DEVICE --host USER@HOST"
    return f"edgewright bench {made} --perplexity {SOURCE} --reference {source}"


def _precision(options: BaseModel) -> str:
    """The precision in which a quantized model is exported; empty: only some formats have one."""
    method = getattr(options, "method", "")
    if method == "smoothquant":
        return "int8"
    if method == "int8":
        return "int8-dynamic"
    return "int4" if getattr(options, "bits", 4) == 4 else ""


def _beside(out: Path, ending: str) -> str:
    """A name for the next result, beside the last one."""
    return shlex.quote(f"{out}-{ending}")


def after_traces(out: Path) -> str:
    """Learning from traces."""
    data = shlex.quote(f"jsonl:{out}")
    return f"edgewright distill STUDENT --teacher none --data {data} --out taught"


def after_bench(save: Path | None) -> str:
    """Judging a measurement that was saved."""
    if save is None:
        return ""
    return f"edgewright gate {shlex.quote(str(save))} --baseline BASELINE.json"


def after_run(ledger: Mapping[str, Any], out: Path) -> str:
    """Bringing the candidate of a run to its device, if it passed its gate.

    A quantized checkpoint is exported first.
    """
    gate = ledger.get("gate") or {}
    steps = {step["name"]: step for step in ledger["steps"]}
    name = gate.get("candidate") or ledger["steps"][-1]["name"]
    target = ledger["recipe"].get("target")
    if gate.get("verdict") == "fail" or not target:
        return ""
    if steps[name]["kind"] == "quantize":
        return _export_for(target, out / name)
    if steps[name]["kind"] != "export":
        return ""
    artifact = shlex.quote(str(out / name))
    return f"edgewright deploy {artifact} --target {target} --host USER@HOST"


def _export_for(target: str, checkpoint: Path) -> str:
    """Exporting a quantized checkpoint to the format that suits a device."""
    from ..pipeline.format_choice import export_command, recommended_route
    from ..steps.state import checkpoint_state
    from ..targets import load_target  # late, all three: `--help` has to be fast

    state = checkpoint_state(checkpoint)
    if state.precision not in ("int4", "int8"):
        return ""
    format = recommended_route(state, state.precision, load_target(target)).format
    out = f"{checkpoint}-{format}"
    return export_command(str(checkpoint), format, state.precision, "float", out)
