"""The writer of the format `edge-llm`: a checked checkpoint, and scripts for TensorRT-Edge-LLM.

checkpoint/               what the exporter reads: the model, or the text model of a wrapper
export.sh                 on any machine with pip: ONNX with NVIDIA's operators
build-jetpack-6.2.sh ...  on the device, in a checkout of TensorRT-Edge-LLM: engine and benchmark
"""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import __version__
from ..checkpoints.atomic_files import write_json
from ..checkpoints.config import quantization, read_config, read_json
from ..checkpoints.directories import atomic_directory
from ..checkpoints.hashing import content_hash, write_provenance
from ..checkpoints.inventory import weight_files
from ..checkpoints.safetensors_writer import Pending, write_shards
from ..checkpoints.tensors import tensor_specs, tensors_of
from ..checkpoints.writer import SHARD_BYTES, config_for_everyone
from ..errors import Refused, UsageError
from ..export.options import ExportOptions
from ..models import WRAPPED_IN
from ..steps.context import StepContext, StepResult
from .edge_llm import CUDA, VERSION, check_checkpoint, device_commands, host_commands
from .profile import load_target

__all__ = ["hand_over", "write"]

SMALLEST = "jetson-orin-nano-8gb"
"""The board that the scripts are written for; the rules are the same for all boards."""
HELD = {None: "fp16", "gptq": "int4", "awq": "int4", "modelopt": "int8"}
"""Precision by quantization method of the checkpoint; None: not quantized."""
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
    """Write a checkpoint and scripts for TensorRT-Edge-LLM to `out`.

    Args:
        source: the checkpoint.
        out: the directory to make.
        precision: of the checkpoint: fp16, int4 or int8. Nothing is converted.

    Raises:
        UsageError: the checkpoint has another precision.
        Refused: TensorRT-Edge-LLM would refuse, misread or slow it down.
    """
    target = load_target(SMALLEST)
    block = quantization(read_config(source))
    found = check_checkpoint(source, target)
    if found:
        reasons = "; ".join(f"{violation.message} ({violation.rule})" for violation in found)
        raise Refused(
            f"{source}: not for TensorRT-Edge-LLM: {reasons}",
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
        _write_scripts(folder, host_commands(Path(CHECKPOINT), target, packed=block is not None))
        provenance = {
            "edgewright": __version__,
            "kind": "artifact",
            "format": "edge-llm",
            "precision": held,
            "source": {"name": source.name, "content_hash": content_hash(source)},
        }
        write_provenance(folder, provenance)
    note = (
        f"checkpoint/ passes the rules of TensorRT-Edge-LLM {VERSION}; export.sh runs its "
        "exporter, build-jetpack-*.sh its builder"
    )
    return StepResult([note])


def _write_scripts(folder: Path, export_commands: list[str]) -> None:
    """Write the script for the export, and one for each JetPack release for the build."""
    about = f"On any machine with pip: {CHECKPOINT}/ becomes {CHECKPOINT}-edge-llm/."
    _script(folder / "export.sh", about, ['cd "$(dirname "$0")"', *export_commands])
    about = (
        f"On the device, in the sources of TensorRT-Edge-LLM {VERSION}, with "
        f"{CHECKPOINT}-edge-llm/ copied there."
    )
    for jetpack in CUDA:
        commands = device_commands(Path(CHECKPOINT), jetpack)
        _script(folder / f"build-jetpack-{jetpack}.sh", about, commands)


def _copy(source: Path, out: Path) -> None:
    """Copy the files of a checkpoint that edgewright reads, as the exporter may read any others.

    Weights that do not belong to the model are left out. config.json is written with corrections
    from the other files. Of a wrapper, only the text model is written.
    """
    config = read_config(source)
    if WRAPPED_IN in config:
        shutil.copytree(source, out, ignore=shutil.ignore_patterns("*.safetensors*"))
        write_shards(out, Pending(tensor_specs(source), tensors_of(source)), SHARD_BYTES)
        write_json(out / "config.json", config_for_everyone(config))
        return
    model = {file.name for file in weight_files(source)}
    others = [file.name for file in source.glob("*.safetensors") if file.name not in model]
    shutil.copytree(source, out, ignore=shutil.ignore_patterns(*others))
    if config != read_json(source / "config.json"):
        write_json(out / "config.json", config_for_everyone(config))


def _script(file: Path, about: str, lines: list[str]) -> None:
    file.write_text(HEADER.format(about=about) + "\n".join(lines) + "\n")
    file.chmod(0o755)
