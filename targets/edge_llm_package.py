"""`export --format edge-llm`: a checkpoint that TensorRT-Edge-LLM's rules were applied to, and scripts for what comes after.

checkpoint/               the model as it is, which is what the exporter reads
export.sh                 on any machine with pip: ONNX with NVIDIA's operators
build-jetpack-6.2.sh ...  on the device, in a checkout of TensorRT-Edge-LLM: engine and benchmark
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import __version__
from ..checkpoints.config import quantization, read_config, read_json
from ..checkpoints.files import (
    PROVENANCE,
    atomic_directory,
    config_for_everyone,
    content_hash,
    weight_files,
    write_json,
)
from ..errors import Refused, UsageError
from ..export.options import ExportOptions
from ..steps.context import StepContext, StepResult
from .edge_llm import CUDA, VERSION, check_checkpoint, device_commands, host_commands
from .profile import load_target

__all__ = ["hand_over", "write"]

SMALLEST = "jetson-orin-nano-8gb"
"""The board that the scripts have to suit; the rules are the same for all."""
HELD = {None: "fp16", "gptq": "int4", "awq": "int4", "modelopt": "int8"}
"""What a checkpoint's layout is to the exporter."""
CHECKPOINT = "checkpoint"
HEADER = """#!/bin/sh
# {about}
set -eu
"""


def write(options: ExportOptions, source: Path, out: Path, context: StepContext) -> StepResult:
    """Write the format `edge-llm` as the result of the export step."""
    del context
    return hand_over(source, out, options.precision)


def hand_over(source: Path, out: Path, precision: str) -> StepResult:
    """Write what TensorRT-Edge-LLM needs of a checkpoint to `out`.

    Args:
        source: the checkpoint.
        out: the directory to make.
        precision: what the checkpoint holds: fp16, int4 or int8. Nothing is converted here.

    Raises:
        UsageError: the checkpoint holds something else.
        Refused: TensorRT-Edge-LLM would refuse, misread or slow it down.
    """
    target, block = load_target(SMALLEST), quantization(read_config(source))
    found = check_checkpoint(source, target)
    if found:
        told = "; ".join(f"{violation.message} ({violation.rule})" for violation in found)
        raise Refused(
            f"{source}: not for TensorRT-Edge-LLM: {told}",
            "; ".join(dict.fromkeys(violation.nearest for violation in found)),
        )
    held = HELD[str(block["quant_method"]) if block else None]
    if precision != held:
        raise UsageError(
            f"{source}: holds {held}, and this format hands over what there is",
            f"--precision {held}, or quantize first",
        )
    with atomic_directory(out) as folder:
        _copy(source, folder / CHECKPOINT)
        here = [
            'cd "$(dirname "$0")"',
            *host_commands(Path(CHECKPOINT), target, packed=block is not None),
        ]
        _script(
            folder / "export.sh",
            f"On any machine with pip: {CHECKPOINT}/ becomes {CHECKPOINT}-edge-llm/.",
            here,
        )
        for jetpack in CUDA:
            about = f"On the device, in the sources of TensorRT-Edge-LLM {VERSION}, with {CHECKPOINT}-edge-llm/ copied there."
            _script(
                folder / f"build-jetpack-{jetpack}.sh",
                about,
                device_commands(Path(CHECKPOINT), jetpack),
            )
        origin = {"name": source.name, "content_hash": content_hash(source)}
        provenance = {
            "edgewright": __version__,
            "kind": "artifact",
            "format": "edge-llm",
            "precision": held,
            "source": origin,
        }
        write_json(folder / PROVENANCE, provenance)
    note = f"checkpoint/ passes the rules of TensorRT-Edge-LLM {VERSION}; export.sh runs its exporter, build-jetpack-*.sh its builder"
    return StepResult([note])


def _copy(source: Path, out: Path) -> None:
    """Copy a checkpoint as it is read here, as the exporter may take whatever lies in the directory.

    Weights that are not the model's stay behind, and config.json is the one that its files correct.
    """
    model = {file.name for file in weight_files(source)}
    others = [file.name for file in source.glob("*.safetensors") if file.name not in model]
    shutil.copytree(source, out, ignore=shutil.ignore_patterns(*others))
    config = read_config(source)
    if config != read_json(source / "config.json"):
        write_json(out / "config.json", config_for_everyone(config))


def _script(file: Path, about: str, lines: list[str]) -> None:
    file.write_text(HEADER.format(about=about) + "\n".join(lines) + "\n")
    file.chmod(0o755)
